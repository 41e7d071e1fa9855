#pragma once
// The kernels on memory of CUDA devices: twins of reduce.h, cast.h and of the codecs, with the same
// bits (cuda_low_rank.h: of low-rank factors). All are put on a stream and return at once; none
// allocates, copies to the device or waits, so they may be captured into a CUDA graph. The stream
// is one of the current device, and so is the memory, which stays allocated until the work is done.
// Pointers to numbers must be aligned to one of them.
//
// NaNs: encoded bytes, and results of 16 bits, hold one and the same NaN everywhere. Which NaN a
// float32 result of a codec holds is not promised.
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cuda_tables.h"
#include "kernels/reduce.h"

namespace quoit::cuda {

enum class Format : std::uint8_t {
  Raw,
  Bf16,
  Bf16Stochastic,
  Fp8,
  Int8,
  Int4,
  Int4Hadamard,
  Sign,
  SignVote,
  TopK,
};
inline constexpr int kFormats = 10;

struct Codec {
  Format format = Format::Raw;
  TopKForm topk{};  // of that format
};

// The codec that compress/codec.h has under this name. Throws UsageError where it has no kernels
// for CUDA.
Codec codec_called(std::string_view name);

// What runs: a device's kernels, or, in tests, the host's stand-in for them.
struct KernelSet {
  TileLaunches tiles[kFormats];
  void (*settle)(const TileArgs&, const Launch&);
  LowRankLaunches low_rank;
  ReduceLaunches reduce;
  CastLaunches casts;
  void (*copy)(const CopyArgs&, const Launch&);
  unsigned (*processors)();         // of the current device
  void (*check)(const char* what);  // throws if a launch failed
};

// Those of this build, or those that were offered. Throws UnavailableError where there are none.
const KernelSet& kernels();

// For tests: the kernels of their own device, in place of this build's and without asking a driver;
// null: this build's again. `set` must outlive all use of it.
void offer(const KernelSet* set);

// What was offered, or null.
const KernelSet* offered();

// "CUDA 13.0: sm_80, sm_90, PTX"; empty: this build has no kernels for CUDA. Asks no driver.
std::string built();

// What the machine has; asks the driver, and never throws.
struct Status {
  std::vector<std::string> devices;
  std::string problem;  // why there is none, in the driver's words; empty if there is
};
Status status();

// Why the kernels of this build cannot run on that device of the machine, or nothing. Never throws.
std::string unfit(int device);

// Whether the kernels run on every device that this process may use; asks the driver. Never throws.
bool run_everywhere();

// Throws UnavailableError, which says why, where this build or machine cannot run the kernels;
// never where others were offered.
void require();

// This build's own, behind kernels().
const KernelSet& built_kernels();

// ---- The steps of a compressed collective: see compress/tiles.h, whose functions of these names
// do the same to one tile. `out` and `theirs` are encoded buffers, at multiples of 4; a run's first
// tile lies run.offset bytes behind their beginning.

void encode(const KernelSet& set, const Codec& codec, std::span<const Run> runs, const Terms& terms,
            std::byte* out, const Launch& launch);

// No residual, no scaling: a value rather than a contribution.
void encode_value(const KernelSet& set, const Codec& codec, std::span<const Run> runs,
                  const Terms& terms, std::byte* out, const Launch& launch);

// `theirs` in rank order, null at the owner's place; at most kMostPeers (UsageError).
void merge(const KernelSet& set, const Codec& codec, std::span<const Run> runs,
           std::span<const std::byte* const> theirs, const Terms& terms, std::byte* out,
           const Launch& launch);
void sum(const KernelSet& set, const Codec& codec, std::span<const Run> runs,
         std::span<const std::byte* const> theirs, const Terms& terms, const Launch& launch);

// Residuals are left alone.
void decode(const KernelSet& set, const Codec& codec, std::span<const Run> runs,
            const std::byte* in, const Launch& launch);

void settle(const KernelSet& set, std::span<const Run> runs, const Terms& terms,
            const Launch& launch);

// ---- Reductions and copies.

// As kernels/reduce.h has it, of at most kMostPeers inputs (UsageError).
void reduce(const KernelSet& set, DType dtype, const ReduceStep& step,
            std::span<const std::byte* const> in, std::byte* out, std::byte* also,
            std::size_t count, const Launch& launch);

// From float32 to bfloat16 or float16, or back (UsageError for anything else).
void cast(const KernelSet& set, DType from, DType to, const std::byte* in, std::byte* out,
          std::size_t count, const Launch& launch);

// Many small pieces at once: packs tensors into a buffer, or takes it apart. Nothing may overlap.
void copy(const KernelSet& set, std::span<const Copy> copies, const Launch& launch);

}  // namespace quoit::cuda
