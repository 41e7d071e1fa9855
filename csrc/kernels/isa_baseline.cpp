// Built with the compiler's default instruction set: runs on every CPU of the architecture.
#include "kernels/half_plain.h"
#include "kernels/reduce_loops.h"

const quoit::KernelTable* quoit::baseline_kernels() { return &kKernels; }
