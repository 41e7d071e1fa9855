// The largest of each tile: see topk_loops.h. A thread block has a tile.
#include "kernels/device_cuda.h"

#include "kernels/cuda_tables.h"
#include "kernels/team_topk.h"

namespace quoit {
namespace {

template <class Step>
__global__ void __launch_bounds__(kTeam, 3)
    topk_kernel(const __grid_constant__ cuda::TileArgs args) {
  __shared__ typename Step::Shared shared;
  for (unsigned tile = blockIdx.x; tile < args.tiles; tile += gridDim.x)
    run_topk<Step>(Team{}, args, tile, shared);
}

template <class Step>
void launch_topk(const cuda::TileArgs& args, const cuda::Launch& launch) {
  const unsigned blocks = cuda::blocks_for(args.tiles, 1, launch);
  topk_kernel<Step><<<blocks, kTeam, 0, launch.stream>>>(args);
}

}  // namespace

cuda::TileLaunches cuda::topk_launches() {
  return {.encode = launch_topk<TopKEncode>,
          .sum = launch_topk<TopKSumUp>,
          .merge = launch_topk<TopKMerge>};
}

}  // namespace quoit
