#pragma once
// The kernels of kernels/cuda.h, run by the host: thread blocks, warps and threads one after the
// other.
#include <memory>

#include "device_plain.h"

#include "kernels/copy_parts.h"
#include "kernels/cuda.h"
#include "kernels/reduce_packs.h"
#include "kernels/team_topk.h"
#include "kernels/warp_basis.h"

namespace quoit::test {

template <class Step>
void run_tiles(const cuda::TileArgs& args, const cuda::Launch&) {
  for (unsigned tile = 0; tile < args.tiles; ++tile) {
    for (unsigned warp = 0; warp < kTileRows; ++warp) run_step<Step>(Warp{}, args, tile, warp);
  }
}

template <class Sum>
constexpr cuda::TileLaunches kTiles{run_tiles<Encode<Sum>>, run_tiles<SumUp<Sum>>,
                                    run_tiles<Merge<Sum>>};

template <class Step>
void run_topk_tiles(const cuda::TileArgs& args, const cuda::Launch&) {
  const auto shared = std::make_unique<typename Step::Shared>();
  for (unsigned tile = 0; tile < args.tiles; ++tile) run_topk<Step>(Team{}, args, tile, *shared);
}

struct RunSteps {
  template <class Step>
  void operator()(const typename Step::Args& args) const {
    for (std::size_t task = 0; task < Step::tasks(args); ++task) Step::run(Warp{}, args, task);
  }
};

constexpr cuda::LowRankLaunches kLowRank{
    .times = [](const cuda::ProductArgs& args,
                const cuda::Launch&) { times_steps(RunSteps{}, args); },
    .transposed_times = [](const cuda::ProductArgs& args,
                           const cuda::Launch&) { times_down_steps(RunSteps{}, args); },
    .restore = [](const cuda::RestoreArgs& args,
                  const cuda::Launch&) { restore_steps(RunSteps{}, args); },
    .orthonormal = [](const cuda::BasisArgs& args,
                      const cuda::Launch&) { orthonormal_steps(RunSteps{}, args); },
    .judge = [](const cuda::SumArgs& args, const cuda::Launch&) { judge_steps(RunSteps{}, args); },
    .keep = [](const cuda::SumArgs& args,
               const cuda::Launch&) { RunSteps{}.operator()<Keep>(args); },
};

// Fewer than any size in use has elements, and no power of two.
constexpr std::size_t kThreads = 37;

template <class Format, template <class> class Op_>
void run_reduce(const KernelCall& call, const cuda::ReduceArgs& args, const cuda::Launch&) {
  const Op_<typename Format::Lane> op(call);
  for (std::size_t t = 0; t < kThreads; ++t) reduce_part<Format>(op, args, t, kThreads);
}

struct Runs {
  template <class Format, template <class> class Op>
  static constexpr cuda::ReduceLaunch kernel = run_reduce<Format, Op>;
};

template <class From, class To>
void run_cast(const std::byte* in, std::byte* out, std::size_t count, const cuda::Launch&) {
  for (std::size_t t = 0; t < kThreads; ++t) cast_part<From, To>(in, out, count, t, kThreads);
}

inline void run_copy(const cuda::CopyArgs& args, const cuda::Launch&) {
  for (unsigned chunk = 0; chunk < args.chunks; ++chunk) {
    for (unsigned t = 0; t < kThreads; ++t) copy_chunk(args, chunk, t, kThreads);
  }
}

inline const cuda::KernelSet& host_kernels() {
  static const cuda::KernelSet set = [] {
    cuda::ReduceLaunches reduce{};
    add_reals<Runs, HalfPart, BrainFloat>(reduce);
    add_narrow_integers<Runs>(reduce);
    add_wide_integers<Runs>(reduce);
    return cuda::KernelSet{
        .tiles = {kTiles<RawSum>,
                  kTiles<Bf16Sum>,
                  kTiles<Bf16StochasticSum>,
                  kTiles<Fp8Sum>,
                  kTiles<Int8Sum>,
                  kTiles<Int4Sum>,
                  kTiles<Int4HadamardSum>,
                  kTiles<SignSum>,
                  kTiles<SignVoteSum>,
                  {run_topk_tiles<TopKEncode>, run_topk_tiles<TopKSumUp>,
                   run_topk_tiles<TopKMerge>}},
        .settle = run_tiles<Settle>,
        .low_rank = kLowRank,
        .reduce = reduce,
        .casts = {run_cast<AsBrain, AsFloat>, run_cast<AsFloat, AsBrain>, run_cast<AsHalf, AsFloat>,
                  run_cast<AsFloat, AsHalf>},
        .copy = run_copy,
        .processors = [] { return 4U; },
        .check = [](const char*) {},
    };
  }();
  return set;
}

}  // namespace quoit::test
