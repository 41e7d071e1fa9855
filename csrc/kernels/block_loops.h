#pragma once
// The loops that the codecs of blocks share. A Format has
//   kLayout                                  a BlockLayout
//   Format(key)                              the key of random rounding
//   static void measure(p, group, b)         block b of a group, as far as the scale needs it
//   static void scale(group)                 all blocks
//   void encode(p, group, b, at, block) const
//   static bool is_finite(p, group, b)       whether all of the block will be when it is decoded
//   static void decode(block, at, out)
// where `at` is the block's index in the tile and `block` says where its parts lie. Internal
// linkage: see reduce_loops.h.
#include "kernels/quantize.h"
#include "kernels/source_loops.h"

namespace quoit {
namespace {

// At any address, of any type.
struct __attribute__((packed, may_alias)) Unaligned16 {
  std::uint16_t value;
};

struct __attribute__((packed, may_alias)) Unaligned8 {
  std::uint8_t value;
};

inline void store16(std::byte* at, std::uint32_t value) {
  reinterpret_cast<Unaligned16*>(at)->value = static_cast<std::uint16_t>(value);
}
inline std::uint16_t load16(const std::byte* at) {
  return reinterpret_cast<const Unaligned16*>(at)->value;
}

// As bits: that of a NaN where there is one.
template <std::size_t kCount>
std::int32_t largest_magnitude(const float* x) {
  std::int32_t largest = 0;
  for (std::size_t i = 0; i < kCount; ++i) {
    const std::int32_t magnitude = magnitude_of(x[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

// The low bits of each. In a loop of its own: compilers narrow parts of an expression before they
// put it together, and so narrow twice.
template <std::size_t kCount, class Narrow>
void narrow(const std::uint32_t* __restrict codes, Narrow* __restrict out) {
  for (std::size_t i = 0; i < kCount; ++i)
    out[i] = {static_cast<decltype(Narrow::value)>(codes[i])};
}

template <class Format>
inline constexpr std::size_t kCodeBytes = Format::kLayout.block * Format::kLayout.bits / 8;

template <class Byte>
struct Block {
  Byte* scale;
  Byte* zero;  // the zero point, of a format that has one
  Byte* codes;

  template <class Format>
  [[nodiscard]] Block after(std::size_t blocks) const {
    return {scale + 2 * blocks, zero + blocks, codes + kCodeBytes<Format> * blocks};
  }
};
using Encoded = Block<const std::byte>;

template <class Format, class Byte>
Block<Byte> first_block(Byte* tile, std::size_t count) {
  const std::size_t blocks = blocks_of(Format::kLayout, count);
  return {tile, tile + 2 * blocks, tile + Format::kLayout.header * blocks};
}

// ---- Encoding, in groups: what the blocks of a group wait for (the largest of all, two divisions)
// overlaps.

template <std::size_t kBlock>
void keep_lost(const float* __restrict p, const float* __restrict decoded, float per_unit,
               bool finite, float* __restrict residual) {
  if (finite) {
    for (std::size_t i = 0; i < kBlock; ++i) residual[i] = lost(p[i], decoded[i], per_unit);
  } else {
    for (std::size_t i = 0; i < kBlock; ++i) {
      if (magnitude_of(decoded[i]) < kInfinite) residual[i] = lost(p[i], decoded[i], per_unit);
    }
  }
}

// What must be known of the blocks of a group before they are encoded, and what follows from it:
// an array of each, so that compilers work on several blocks at a time.
template <std::size_t kBlocks>
struct Group {
  alignas(32) std::int32_t above_in[kBlocks][8];  // `above`, of every eighth
  alignas(32) std::int32_t below_in[kBlocks][8];
  alignas(32) std::int32_t above[kBlocks];  // the largest number, or magnitude, as bits
  alignas(32) std::int32_t below[kBlocks];  // that of the smallest number
  alignas(32) std::uint32_t scale[kBlocks];
  alignas(32) float inverse[kBlocks];
  alignas(32) std::int32_t zero[kBlocks];
  alignas(32) std::int32_t least[kBlocks];
  alignas(32) std::int32_t most[kBlocks];
};

// The largest of each row.
template <std::size_t kBlocks>
void settle(const std::int32_t (&rows)[kBlocks][8], std::int32_t* out) {
  if constexpr (kBlocks == 8) {
    largest_of_rows(rows[0], out);
  } else {
    for (std::size_t b = 0; b < kBlocks; ++b) {
      out[b] = 0;
      for (const std::int32_t x : rows[b]) out[b] = x > out[b] ? x : out[b];
    }
  }
}

// What formats have in common whose codes go from -kLargest to kLargest, in blocks of 128.
template <std::int32_t kLargest>
struct AbsmaxFormat {
  template <std::size_t kBlocks>
  static void measure(const float* p, Group<kBlocks>& group, std::size_t b) {
    largest_in_lanes(p, 128, group.above_in[b]);
  }

  template <std::size_t kBlocks>
  static void scale(Group<kBlocks>& group) {
    settle(group.above_in, group.above);
    for (std::size_t b = 0; b < kBlocks; ++b) {
      const Scale scale = scale_of(group.above[b], kLargest);
      group.scale[b] = scale.stored;
      group.inverse[b] = scale.inverse;
    }
  }

  template <std::size_t kBlocks>
  static bool is_finite(const float*, const Group<kBlocks>& group, std::size_t b) {
    return group.above[b] < kInfinite;
  }
};

// The first kBlocks blocks of `from`, which begin at `at` in the tile.
template <class Format, std::size_t kBlocks>
void encode_blocks(const Source& from, const Format& format, std::size_t at,
                   const Block<std::byte>& first) {
  constexpr std::size_t kBlock = Format::kLayout.block;
  alignas(64) float p[kBlocks][kBlock];
  Group<kBlocks> group;
  for (std::size_t b = 0; b < kBlocks; ++b) {
    load_block<kBlock>(from, b * kBlock, p[b]);
    Format::measure(p[b], group, b);
  }
  Format::scale(group);
  for (std::size_t b = 0; b < kBlocks; ++b)
    format.encode(p[b], group, b, at + b * kBlock, first.template after<Format>(b));
  if (from.residual == nullptr) return;
  for (std::size_t b = 0; b < kBlocks; ++b) {
    const auto block = first.template after<Format>(b);
    alignas(64) float decoded[kBlock];
    Format::decode({block.scale, block.zero, block.codes}, at + b * kBlock, decoded);
    keep_lost<kBlock>(p[b], decoded, from.per_unit, Format::is_finite(p[b], group, b),
                      from.residual + b * kBlock);
  }
}

// Fewer than a block: padded with zeros, so that every loop is one over a whole block.
template <class Format>
void encode_rest(const Source& from, const Format& format, std::size_t at,
                 const Block<std::byte>& block) {
  const std::size_t n = from.count;
  float in[Format::kLayout.block]{}, carried[Format::kLayout.block]{};
  float residual[Format::kLayout.block]{};
  std::byte codes[kCodeBytes<Format>];
  Source padded = from;
  __builtin_memcpy(in, from.in, n * sizeof(float));
  padded.in = in;
  if (from.carried) {
    __builtin_memcpy(carried, from.carried, n * sizeof(float));
    padded.carried = carried;
  }
  if (from.residual) {
    __builtin_memcpy(residual, from.residual, n * sizeof(float));
    padded.residual = residual;
  }
  encode_blocks<Format, 1>(padded, format, at, {block.scale, block.zero, codes});
  __builtin_memcpy(block.codes, codes, code_bytes(Format::kLayout, n));
  if (from.residual) __builtin_memcpy(from.residual, residual, n * sizeof(float));
}

template <class Format>
void encode_tile(const Source& from, std::byte* out) {
  constexpr std::size_t kBlock = Format::kLayout.block, kGroup = 8;
  const Format format(from.key);
  const std::size_t count = from.count;
  __builtin_memset(out + tile_bytes(Format::kLayout, count) - 4, 0, 4);  // what rounds it up
  auto block = first_block<Format>(out, count);
  std::size_t at = 0;
  for (; at + kGroup * kBlock <= count; at += kGroup * kBlock) {
    encode_blocks<Format, kGroup>(part_of(from, at, kGroup * kBlock), format, at, block);
    block = block.template after<Format>(kGroup);
  }
  for (; at + kBlock <= count; at += kBlock) {
    encode_blocks<Format, 1>(part_of(from, at, kBlock), format, at, block);
    block = block.template after<Format>(1);
  }
  if (at < count) encode_rest(part_of(from, at, count - at), format, at, block);
}

// ---- Decoding.

template <class Format>
void decode_rest(const Encoded& block, std::size_t at, std::size_t n, float* decoded) {
  std::byte codes[kCodeBytes<Format>]{};
  __builtin_memcpy(codes, block.codes, code_bytes(Format::kLayout, n));
  Format::decode({block.scale, block.zero, codes}, at, decoded);
}

template <class Format>
void decode_tile(const std::byte* in, float* out, std::size_t count) {
  constexpr std::size_t kBlock = Format::kLayout.block;
  auto block = first_block<Format>(in, count);
  std::size_t at = 0;
  for (; at + kBlock <= count; at += kBlock) {
    Format::decode(block, at, out + at);
    block = block.template after<Format>(1);
  }
  if (at < count) {
    float decoded[kBlock];
    decode_rest<Format>(block, at, count - at, decoded);
    __builtin_memcpy(out + at, decoded, (count - at) * sizeof(float));
  }
}

template <class Format>
void add_tile(const std::byte* in, float* __restrict sum, std::size_t count) {
  constexpr std::size_t kBlock = Format::kLayout.block;
  alignas(64) float decoded[kBlock];
  auto block = first_block<Format>(in, count);
  std::size_t at = 0;
  for (; at + kBlock <= count; at += kBlock) {
    Format::decode(block, at, decoded);
    for (std::size_t i = 0; i < kBlock; ++i) sum[at + i] += decoded[i];
    block = block.template after<Format>(1);
  }
  if (at < count) {
    decode_rest<Format>(block, at, count - at, decoded);
    for (std::size_t i = 0; at + i < count; ++i) sum[at + i] += decoded[i];
  }
}

template <class Format>
constexpr TileKernels kTileKernels{
    .encode = encode_tile<Format>, .decode = decode_tile<Format>, .add = add_tile<Format>};

}  // namespace
}  // namespace quoit
