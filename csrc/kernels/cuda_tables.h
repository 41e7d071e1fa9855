#pragma once
// The launches that each .cu file has; cuda_device.cu puts them together.
#include "kernels/cuda_args.h"
#include "kernels/cuda_low_rank.h"

namespace quoit::cuda {

TileLaunches raw_launches();
TileLaunches bf16_launches();
TileLaunches bf16_stochastic_launches();
TileLaunches fp8_launches();
TileLaunches int8_launches();
TileLaunches int4_launches();
TileLaunches int4_hadamard_launches();
TileLaunches sign_launches();
TileLaunches sign_vote_launches();
TileLaunches topk_launches();
LowRankLaunches low_rank_launches();
void launch_settle(const TileArgs& args, const Launch& launch);

// Each adds its dtypes.
void add_real_reductions(ReduceLaunches& launches);
void add_narrow_reductions(ReduceLaunches& launches);
void add_wide_reductions(ReduceLaunches& launches);

using CastLaunch = void (*)(const std::byte*, std::byte*, std::size_t, const Launch&);

// Between float32 and a 16-bit format.
struct CastLaunches {
  CastLaunch from_bf16;
  CastLaunch to_bf16;
  CastLaunch from_f16;
  CastLaunch to_f16;
};
CastLaunches cast_launches();
void launch_copy(const CopyArgs& args, const Launch& launch);

}  // namespace quoit::cuda
