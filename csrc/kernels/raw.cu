// float32 as it is, for small tensors; and what is settled without a codec.
#include "kernels/tiles_cuda.h"

namespace quoit::cuda {

TileLaunches raw_launches() {
  return {.encode = launch_tiles<Encode<RawSum>>,
          .sum = launch_tiles<SumUp<RawSum>>,
          .merge = launch_tiles<Merge<RawSum>>};
}

void launch_settle(const TileArgs& args, const Launch& launch) {
  launch_tiles<Settle>(args, launch);
}

}  // namespace quoit::cuda
