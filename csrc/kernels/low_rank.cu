// Low-rank factors: see low_rank_loops.h. Warps take tasks.
#include "kernels/device_cuda.h"

#include "kernels/cuda_tables.h"
#include "kernels/warp_basis.h"

namespace quoit {
namespace {

constexpr unsigned kWarps = 8;  // of a thread block

template <class Step>
__global__ void __launch_bounds__(32 * kWarps, 2)
    warp_kernel(const __grid_constant__ typename Step::Args args, std::size_t tasks) {
  const std::size_t first = std::size_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  for (std::size_t task = first; task < tasks; task += std::size_t{gridDim.x} * kWarps)
    Step::run(Warp{}, args, task);
}

struct LaunchSteps {
  const cuda::Launch& launch;

  template <class Step>
  void operator()(const typename Step::Args& args) const {
    const std::size_t tasks = Step::tasks(args);
    const unsigned blocks = cuda::blocks_for(tasks, kWarps, launch);
    warp_kernel<Step><<<blocks, 32 * kWarps, 0, launch.stream>>>(args, tasks);
  }
};

void launch_times(const cuda::ProductArgs& args, const cuda::Launch& launch) {
  times_steps(LaunchSteps{launch}, args);
}
void launch_times_down(const cuda::ProductArgs& args, const cuda::Launch& launch) {
  times_down_steps(LaunchSteps{launch}, args);
}
void launch_restore(const cuda::RestoreArgs& args, const cuda::Launch& launch) {
  restore_steps(LaunchSteps{launch}, args);
}
void launch_orthonormal(const cuda::BasisArgs& args, const cuda::Launch& launch) {
  orthonormal_steps(LaunchSteps{launch}, args);
}
void launch_judge(const cuda::SumArgs& args, const cuda::Launch& launch) {
  judge_steps(LaunchSteps{launch}, args);
}
void launch_keep(const cuda::SumArgs& args, const cuda::Launch& launch) {
  LaunchSteps{launch}.operator()<Keep>(args);
}

}  // namespace

cuda::LowRankLaunches cuda::low_rank_launches() {
  return {.times = launch_times,
          .transposed_times = launch_times_down,
          .restore = launch_restore,
          .orthonormal = launch_orthonormal,
          .judge = launch_judge,
          .keep = launch_keep};
}

}  // namespace quoit
