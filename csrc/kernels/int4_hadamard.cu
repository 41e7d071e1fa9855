// int4 after a random rotation: see int4_loops.h.
#include "kernels/tiles_cuda.h"

namespace quoit::cuda {

TileLaunches int4_hadamard_launches() {
  return {.encode = launch_tiles<Encode<Int4HadamardSum>>,
          .sum = launch_tiles<SumUp<Int4HadamardSum>>,
          .merge = launch_tiles<Merge<Int4HadamardSum>>};
}

}  // namespace quoit::cuda
