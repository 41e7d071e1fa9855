// bfloat16: see bf16_loops.h. What was rounded at random is decoded like any other.
#include "kernels/tiles_cuda.h"

namespace quoit::cuda {

TileLaunches bf16_launches() {
  return {.encode = launch_tiles<Encode<Bf16Sum>>,
          .sum = launch_tiles<SumUp<Bf16Sum>>,
          .merge = launch_tiles<Merge<Bf16Sum>>};
}

TileLaunches bf16_stochastic_launches() {
  return {.encode = launch_tiles<Encode<Bf16StochasticSum>>,
          .sum = launch_tiles<SumUp<Bf16Sum>>,
          .merge = launch_tiles<Merge<Bf16StochasticSum>>};
}

}  // namespace quoit::cuda
