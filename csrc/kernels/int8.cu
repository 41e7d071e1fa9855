// int8: see int8_loops.h.
#include "kernels/tiles_cuda.h"

namespace quoit::cuda {

TileLaunches int8_launches() {
  return {.encode = launch_tiles<Encode<Int8Sum>>,
          .sum = launch_tiles<SumUp<Int8Sum>>,
          .merge = launch_tiles<Merge<Int8Sum>>};
}

}  // namespace quoit::cuda
