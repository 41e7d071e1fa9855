// Reductions of integers of 8 and 16 bits, and of booleans.
#include "kernels/reduce_cuda.h"

void quoit::cuda::add_narrow_reductions(ReduceLaunches& launches) {
  add_narrow_integers<Launches>(launches);
}
