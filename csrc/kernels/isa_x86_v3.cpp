// Built with -march=x86-64-v3 (AVX2, F16C): called only where cpu_has_x86_v3().
#include "kernels/half_f16c.h"
#include "kernels/reduce_loops.h"

const quoit::KernelTable* quoit::x86_v3_kernels() { return &kKernels; }
