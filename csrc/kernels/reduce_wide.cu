// Reductions of integers of 32 and 64 bits.
#include "kernels/reduce_cuda.h"

void quoit::cuda::add_wide_reductions(ReduceLaunches& launches) {
  add_wide_integers<Launches>(launches);
}
