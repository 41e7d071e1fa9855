#pragma once
// The kernels of reduce(), one for each format and operation. Only nvcc can read this.
#include "kernels/device_cuda.h"

#include "kernels/cuda_tables.h"
#include "kernels/reduce_packs.h"

namespace quoit {
namespace {

inline constexpr unsigned kReduceThreads = 256;

template <class Format, class Op>
__global__ void __launch_bounds__(kReduceThreads, 4)
    reduce_kernel(const Op op, const __grid_constant__ cuda::ReduceArgs args) {
  const std::size_t thread = std::size_t{blockIdx.x} * kReduceThreads + threadIdx.x;
  reduce_part<Format>(op, args, thread, std::size_t{gridDim.x} * kReduceThreads);
}

template <class Format, template <class> class Op_>
void launch_reduce(const KernelCall& call, const cuda::ReduceArgs& args,
                   const cuda::Launch& launch) {
  const Op_<typename Format::Lane> op(call);
  constexpr std::size_t kCount = 16 / sizeof(typename Format::Stored);
  const std::size_t singles = args.count - args.packs * kCount;
  const std::size_t things = args.packs > singles ? args.packs : singles;
  const unsigned blocks = cuda::blocks_for(things, kReduceThreads, launch);
  reduce_kernel<Format><<<blocks, kReduceThreads, 0, launch.stream>>>(op, args);
}

struct Launches {
  template <class Format, template <class> class Op>
  static constexpr cuda::ReduceLaunch kernel = launch_reduce<Format, Op>;
};

}  // namespace
}  // namespace quoit
