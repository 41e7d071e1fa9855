// Signs: see sign_loops.h. Whoever votes writes the same bytes.
#include "kernels/tiles_cuda.h"

namespace quoit::cuda {

TileLaunches sign_launches() {
  return {.encode = launch_tiles<Encode<SignSum>>,
          .sum = launch_tiles<SumUp<SignSum>>,
          .merge = launch_tiles<Merge<SignSum>>};
}

TileLaunches sign_vote_launches() {
  return {.encode = launch_tiles<Encode<SignSum>>,
          .sum = launch_tiles<SumUp<SignVoteSum>>,
          .merge = launch_tiles<Merge<SignVoteSum>>};
}

}  // namespace quoit::cuda
