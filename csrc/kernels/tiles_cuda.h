#pragma once
// The kernels of a codec: thread blocks take tiles, warps rows. Only nvcc can read this.
#include "kernels/device_cuda.h"

#include "kernels/cuda_tables.h"
#include "kernels/row_codec.h"

namespace quoit {
namespace {

inline constexpr unsigned kTileThreads = 32 * kTileRows;

template <class Step>
__global__ void __launch_bounds__(kTileThreads, 3)
    tile_kernel(const __grid_constant__ cuda::TileArgs args) {
  for (unsigned tile = blockIdx.x; tile < args.tiles; tile += gridDim.x)
    run_step<Step>(Warp{}, args, tile, threadIdx.x / 32);
}

template <class Step>
void launch_tiles(const cuda::TileArgs& args, const cuda::Launch& launch) {
  const unsigned blocks = cuda::blocks_for(args.tiles, 1, launch);
  tile_kernel<Step><<<blocks, kTileThreads, 0, launch.stream>>>(args);
}

}  // namespace
}  // namespace quoit
