#pragma once
// What kernels on CUDA devices are told: plain data that a launch carries along, so that nothing
// has to be copied to the device first, and a launch may be part of a CUDA graph.
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "kernels/kernel_table.h"
#include "kernels/topk_format.h"

struct CUstream_st;

namespace quoit::cuda {

using Stream = CUstream_st*;  // a cudaStream_t

// Where and how wide to run.
struct Launch {
  Stream stream = nullptr;
  unsigned most_blocks = 0;  // of 256 threads, at a time; 0: as many as there is work for
};

// Thread blocks for so many things, of which a block takes some at a time.
inline unsigned blocks_for(std::size_t things, unsigned at_a_time, const Launch& launch) {
  constexpr std::size_t kMost = 1U << 20;
  std::size_t blocks = (things + at_a_time - 1) / at_a_time;
  if (launch.most_blocks > 0 && launch.most_blocks < blocks) blocks = launch.most_blocks;
  return static_cast<unsigned>(blocks < kMost ? blocks : kMost);
}

// One tensor of a compressed buffer, or as much of it as begins and ends with a tile (the last one
// may be shorter).
struct Run {
  std::byte* data = nullptr;  // float32, bfloat16 or float16
  float* residual = nullptr;  // what earlier calls lost of it; null: losses are lost
  std::size_t count = 0;      // elements
  std::size_t offset = 0;     // in bytes, of its first tile in every encoded buffer
  std::uint64_t index = 0;    // of its first tile in the buffer; seeds random rounding
  DType dtype = DType::Float32;
};

// As compress/tiles.h has them.
struct Terms {
  float before = 1;
  std::uint64_t after = 1;
  float unit = 1;
  std::uint64_t seed = 0;
  int rank = 0;
};

inline constexpr unsigned kMostPeers = 128;
inline constexpr unsigned kMostRuns = 40;  // of one launch

struct TileArgs {
  Run runs[kMostRuns];
  unsigned ends[kMostRuns];  // tiles up to the end of each run
  unsigned run_count = 0;
  unsigned tiles = 0;
  const std::byte* theirs[kMostPeers];  // encoded, in rank order; null: the own part
  unsigned peers = 0;
  std::byte* out = nullptr;  // encoded; unused by a sum
  Terms terms;
  float per_unit = 1;
  unsigned stage = 0;  // of tile_key()
  TopKForm topk{};     // of that codec
};

struct ReduceArgs {
  const std::byte* in[kMostPeers];
  std::byte* out;
  std::byte* also;  // may be null
  unsigned inputs;
  std::size_t count;
  std::size_t head;   // elements before the first address that is a multiple of 16
  std::size_t packs;  // of 16 bytes each, from there on; what is left goes one by one
};

// Bytes from one place to another.
struct Copy {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  std::size_t bytes = 0;
};

inline constexpr unsigned kMostCopies = 100;      // of one launch
inline constexpr std::size_t kCopyChunk = 16384;  // bytes that a block copies at a time

struct CopyArgs {
  Copy copies[kMostCopies];
  unsigned ends[kMostCopies];  // chunks up to the end of each
  unsigned copy_count = 0;
  unsigned chunks = 0;
};

// A launch copies its arguments, and may copy no more than this.
static_assert(sizeof(TileArgs) <= 4096 && sizeof(ReduceArgs) <= 4096 && sizeof(CopyArgs) <= 4096);

// The kernels of one codec.
struct TileLaunches {
  void (*encode)(const TileArgs&, const Launch&);  // the own part
  void (*sum)(const TileArgs&, const Launch&);     // into the data
  void (*merge)(const TileArgs&, const Launch&);   // a sum, encoded
};

using ReduceLaunch = void (*)(const KernelCall&, const ReduceArgs&, const Launch&);

// Null where an operation has no meaning for a type.
struct ReduceLaunches {
  ReduceLaunch at[kDTypes][kReduceOps];
};

}  // namespace quoit::cuda
