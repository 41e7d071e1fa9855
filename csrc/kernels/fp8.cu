// float8: see fp8_loops.h.
#include "kernels/tiles_cuda.h"

namespace quoit::cuda {

TileLaunches fp8_launches() {
  return {.encode = launch_tiles<Encode<Fp8Sum>>,
          .sum = launch_tiles<SumUp<Fp8Sum>>,
          .merge = launch_tiles<Merge<Fp8Sum>>};
}

}  // namespace quoit::cuda
