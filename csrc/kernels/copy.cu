// Copies of many small pieces, and casts.
#include "kernels/device_cuda.h"

#include "kernels/copy_parts.h"
#include "kernels/cuda_tables.h"

namespace quoit {
namespace {

constexpr unsigned kThreads = 256;

__global__ void __launch_bounds__(kThreads, 4)
    copy_kernel(const __grid_constant__ cuda::CopyArgs args) {
  for (unsigned chunk = blockIdx.x; chunk < args.chunks; chunk += gridDim.x)
    copy_chunk(args, chunk, threadIdx.x, kThreads);
}

template <class From, class To>
__global__ void __launch_bounds__(kThreads, 4)
    cast_kernel(const std::byte* in, std::byte* out, std::size_t count) {
  const std::size_t thread = std::size_t{blockIdx.x} * kThreads + threadIdx.x;
  cast_part<From, To>(in, out, count, thread, std::size_t{gridDim.x} * kThreads);
}

template <class From, class To>
void launch_cast(const std::byte* in, std::byte* out, std::size_t count,
                 const cuda::Launch& launch) {
  const unsigned blocks = cuda::blocks_for(count / 4 + count % 4, kThreads, launch);
  cast_kernel<From, To><<<blocks, kThreads, 0, launch.stream>>>(in, out, count);
}

}  // namespace

namespace cuda {

void launch_copy(const CopyArgs& args, const Launch& launch) {
  const unsigned blocks = cuda::blocks_for(args.chunks, 1, launch);
  copy_kernel<<<blocks, kThreads, 0, launch.stream>>>(args);
}

CastLaunches cast_launches() {
  return {.from_bf16 = launch_cast<AsBrain, AsFloat>,
          .to_bf16 = launch_cast<AsFloat, AsBrain>,
          .from_f16 = launch_cast<AsHalf, AsFloat>,
          .to_f16 = launch_cast<AsFloat, AsHalf>};
}

}  // namespace cuda
}  // namespace quoit
