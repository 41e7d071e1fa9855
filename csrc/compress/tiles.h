#pragma once
// A buffer of several tensors, cut into tiles that are encoded, summed and decoded one by one, and
// the tiles shared out among ranks. What a rank does to a tile, apart from how its bytes travel.
#include <cstdint>
#include <vector>

#include "compress/codec.h"
#include "compress/low_rank.h"

namespace quoit {

// One tensor of a buffer.
struct Part {
  Slice where;
  CodecPtr codec;
  // What earlier calls lost of it: where.count floats, updated by every call; null: losses are
  // lost.
  float* residual = nullptr;
  std::shared_ptr<const LowRank> matrix = nullptr;  // of one that is sent as factors
};

// Up to kTile elements of one part. The result goes where they came from.
struct Tile {
  View data;  // float32, bfloat16 or float16
  const Codec* codec = nullptr;
  float* residual = nullptr;
  std::size_t bytes = 0;    // encoded
  std::uint64_t index = 0;  // in the buffer; seeds random rounding
  bool of_matrix = false;   // of a low-rank part: travels as factors instead
  bool scaled = false;      // of a factor: not to be divided
};

// How a sum over ranks is scaled. Tensors with a residual are divided before they are encoded, so
// that what is lost is lost of the mean; the others once they were added up, as without a codec.
struct Terms {
  float before = 1;
  std::uint64_t after = 1;
  float unit = 1;          // of residuals: a scaled loss has scaled gradients, and unscaled losses
  std::uint64_t seed = 0;  // of random rounding, equal on all ranks and new for every call
  int rank = 0;
};

// Cuts `data` into tiles. The parts must cover it from the beginning to the end, in order, and its
// dtype must be one that codecs know (UsageError).
std::vector<Tile> cut_into_tiles(View data, const std::vector<Part>& parts);

// Appends the tiles of a low-rank part's factor.
void cut_factor(View factor, const Codec& codec, std::vector<Tile>& tiles);

// A run of tiles, as indices.
struct TileRange {
  std::size_t begin = 0;
  std::size_t end = 0;

  [[nodiscard]] std::size_t size() const { return end - begin; }
};

std::size_t encoded_bytes(const std::vector<Tile>& tiles, TileRange range);

// `range` cut into `parts` runs of nearly equal encoded size, in order.
std::vector<TileRange> share_out(const std::vector<Tile>& tiles, TileRange range,
                                 std::size_t parts);

// Numbers as float32: themselves, or widened into `room`, which has data.count floats.
float* widened(View data, const CodecKernels& kernels, float* room);

// Where to put float32 numbers that narrow() takes: in their place, or into `room`.
float* place_for(View data, float* room);

// Puts them back, if they do not lie there already.
void narrow(const float* from, const CodecKernels& kernels, View data);

// Encodes what this rank gives to `tile`. Uses up the residual, and writes the new one.
void encode_tile(const Tile& tile, const Terms& terms, std::byte* out);

// The owner's step: adds its own part to what the others gave (encoded, in rank order, null at the
// owner's place), and encodes the sum. What the second encoding loses goes into the owner's
// residual.
void merge_tile(const Tile& tile, std::span<const std::byte* const> theirs, const Terms& terms,
                std::byte* out);

// The same where the sum stays with its owner: it is not encoded again, and nothing is lost of it.
void sum_tile(const Tile& tile, std::span<const std::byte* const> theirs, const Terms& terms);

// Encodes a value rather than a contribution: no residual, no scaling.
void encode_value(const Tile& tile, const Terms& terms, std::byte* out);

void decode_tile(const Tile& tile, const std::byte* in);

// Adds what earlier calls lost to the tile itself, which is scaled by `before`, and leaves in the
// residual only what does not fit the tile's dtype. Tiles without a residual are left alone.
void settle_residual(const Tile& tile, const Terms& terms);

}  // namespace quoit
