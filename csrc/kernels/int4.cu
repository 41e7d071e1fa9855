// int4: see int4_loops.h.
#include "kernels/tiles_cuda.h"

namespace quoit::cuda {

TileLaunches int4_launches() {
  return {.encode = launch_tiles<Encode<Int4Sum>>,
          .sum = launch_tiles<SumUp<Int4Sum>>,
          .merge = launch_tiles<Merge<Int4Sum>>};
}

}  // namespace quoit::cuda
