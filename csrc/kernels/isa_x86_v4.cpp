// Built with -march=x86-64-v4 (AVX-512): called only where cpu_has_x86_v4().
#include "kernels/half_f16c.h"
#include "kernels/reduce_loops.h"

const quoit::KernelTable* quoit::x86_v4_kernels() { return &kKernels; }
