#pragma once
// What the codecs of csrc/compress ask of the kernels: loops that are compiled once for each
// instruction set, and give the same bits on all of them.
#include "kernels/kernel_table.h"
#include "kernels/low_rank_kernels.h"
#include "kernels/reduce.h"

namespace quoit {

// Elements are encoded in tiles: runs of so many elements of one tensor, counted from its
// beginning; the last may be shorter. A tile stays in the L1 cache while it is worked on.
inline constexpr std::size_t kTile = 4096;

// What a rank gives of one tile: p[i] = in[i] * scale + carried[i] * unit, rounded after each
// multiplication and addition.
struct Source {
  const float* in = nullptr;
  std::size_t count = 0;           // 1 to kTile; of a low-rank codec's matrix, all of it
  float scale = 1;                 // what a mean divides by, as a factor
  const float* carried = nullptr;  // what earlier calls lost; null: nothing
  // Where to keep what this one loses: residual[i] = (p[i] - decoded[i]) * per_unit. May be
  // `carried`. Left as it is where a block holds anything that is not finite. Null: it is lost.
  float* residual = nullptr;
  float unit = 1;         // of the residual: the scale of a scaled loss
  float per_unit = 1;     // 1 / unit
  std::uint64_t key = 0;  // of random rounding; never the same for two tiles
};

// What a codec does with a tile, as documented at Codec (compress/codec.h).
struct TileKernels {
  void (*encode)(const Source& from, std::byte* out);
  void (*decode)(const std::byte* in, float* out, std::size_t count);
  void (*add)(const std::byte* in, float* sum, std::size_t count);
};

// ---- Signs (sign_format.h).

struct SignVote {
  const std::byte* const* from;  // encoded tiles
  std::size_t ranks;
  std::size_t count;
  std::uint64_t divide_by;
  std::uint64_t key;  // which elements are negative when there are as many votes for either sign
};

struct SignKernels {
  void (*encode)(const Source& from, std::byte* out);
  void (*decode)(const std::byte* in, float* out, std::size_t count);
  void (*add)(const std::byte* in, float* sum, std::size_t count);
  // The sum of the scales, divided, with the sign of the majority. Whose block has the scale 0 has
  // no vote; of a block that nobody votes on all is 0.
  void (*vote)(const SignVote& vote, float* out);
};

// ---- The largest of a tile (topk_format.h, which has the layout).

struct TopKLayout;

struct TopKKernels {
  void (*encode)(const Source& from, const TopKLayout& layout, std::byte* out);
  void (*decode)(const std::byte* in, const TopKLayout& layout, float* out, std::size_t count);
  void (*add)(const std::byte* in, const TopKLayout& layout, float* sum, std::size_t count);
};

// ---- All of them.

// Encoding reads `in` and `carried` once. Pointers need no alignment beyond that of a float.
// Where `out` is said to be added to, out[i] += decoded[i].
struct CodecKernels {
  // p itself.
  void (*load)(const Source& from, float* out);
  // into[i] += from[i]
  void (*add)(const float* from, float* into, std::size_t count);
  // Between float32 and the 16-bit formats; see kernels/cast.h.
  void (*from_bf16)(const std::uint16_t* in, float* out, std::size_t count);
  void (*to_bf16)(const float* in, std::uint16_t* out, std::size_t count);
  void (*from_f16)(const std::uint16_t* in, float* out, std::size_t count);
  void (*to_f16)(const float* in, std::uint16_t* out, std::size_t count);
  TileKernels bf16;
  TileKernels bf16_stochastic;
  TileKernels fp8;
  TileKernels int8;
  TileKernels int4;
  TileKernels int4_hadamard;
  SignKernels sign;
  TopKKernels topk;
  LowRankKernels low_rank;
};

// The table of an instruction set, by default the best that this CPU has. Throws UnavailableError
// where this build or CPU lacks it.
const CodecKernels& codec_kernels(Isa isa = isa_in_use());

// Null when not built for this architecture.
const CodecKernels* baseline_codec_kernels();
const CodecKernels* x86_v3_codec_kernels();
const CodecKernels* x86_v4_codec_kernels();

}  // namespace quoit
