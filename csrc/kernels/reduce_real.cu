// Reductions of floating-point numbers.
#include "kernels/reduce_cuda.h"

void quoit::cuda::add_real_reductions(ReduceLaunches& launches) {
  add_reals<Launches, HalfPart, BrainFloat>(launches);
}
