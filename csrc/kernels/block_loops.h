#pragma once
// The loops that the codecs of blocks share. A Format has
//   kLayout                          a BlockLayout
//   Format(key)                      the key of random rounding
//   bool encode(p, at, block) const  writes one block; false where anything is not finite
//   static void decode(block, at, out)
// where `at` is the block's index in the tile and `block` says where its parts lie. Internal
// linkage: see reduce_loops.h.
#include "kernels/codec_kernels.h"
#include "kernels/quantize.h"

namespace quoit {
namespace {

// At any address, of any type.
struct __attribute__((packed, may_alias)) Unaligned16 {
  std::uint16_t value;
};

inline void store16(std::byte* at, std::uint16_t value) {
  reinterpret_cast<Unaligned16*>(at)->value = value;
}
inline std::uint16_t load16(const std::byte* at) {
  return reinterpret_cast<const Unaligned16*>(at)->value;
}

template <class Byte>
struct Block {
  Byte* scale;
  Byte* zero;  // the zero point, of a format that has one
  Byte* codes;
};
using Encoded = Block<const std::byte>;

template <class Format>
inline constexpr std::size_t kCodeBytes = Format::kLayout.block * Format::kLayout.bits / 8;

// Calls whole(at, block) for the blocks of a tile, and rest(at, block, n) for a shorter last one.
template <class Format, class Byte, class Whole, class Rest>
void for_each_block(Byte* tile, std::size_t count, const Whole& whole, const Rest& rest) {
  constexpr BlockLayout kLayout = Format::kLayout;
  const std::size_t blocks = blocks_of(kLayout, count);
  Block<Byte> block{tile, tile + 2 * blocks, tile + kLayout.header * blocks};
  std::size_t at = 0;
  for (; at + kLayout.block <= count; at += kLayout.block) {
    whole(at, block);
    block = {block.scale + 2, block.zero + 1, block.codes + kCodeBytes<Format>};
  }
  if (at < count) rest(at, block, count - at);
}

// ---- Encoding.

template <std::size_t kBlock>
void load_block(const Source& from, float* __restrict p) {
  const float scale = from.scale, unit = from.unit;
  const float *const in = from.in, *const carried = from.carried;
  if (carried) {
    for (std::size_t i = 0; i < kBlock; ++i) p[i] = in[i] * scale + carried[i] * unit;
  } else {
    for (std::size_t i = 0; i < kBlock; ++i) p[i] = in[i] * scale;
  }
}

template <std::size_t kBlock>
void keep_lost(const float* __restrict p, const float* __restrict decoded, float per_unit,
               bool finite, float* __restrict residual) {
  if (finite) {
    for (std::size_t i = 0; i < kBlock; ++i) residual[i] = (p[i] - decoded[i]) * per_unit;
  } else {
    for (std::size_t i = 0; i < kBlock; ++i) {
      if (magnitude_of(decoded[i]) < kInfinite) residual[i] = (p[i] - decoded[i]) * per_unit;
    }
  }
}

// `from` begins with the block, and is at least as long.
template <class Format>
void encode_block(const Source& from, const Format& format, std::size_t at,
                  const Block<std::byte>& block) {
  constexpr std::size_t kBlock = Format::kLayout.block;
  alignas(64) float p[kBlock];
  load_block<kBlock>(from, p);
  const bool finite = format.encode(p, at, block);
  if (from.residual) {
    alignas(64) float decoded[kBlock];
    Format::decode({block.scale, block.zero, block.codes}, at, decoded);
    keep_lost<kBlock>(p, decoded, from.per_unit, finite, from.residual);
  }
}

// Fewer than a block: padded with zeros, so that every loop is one over a whole block.
template <class Format>
void encode_rest(const Source& from, const Format& format, std::size_t at,
                 const Block<std::byte>& block, std::size_t n) {
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
  encode_block(padded, format, at, {block.scale, block.zero, codes});
  __builtin_memcpy(block.codes, codes, (n * Format::kLayout.bits + 7) / 8);
  if (from.residual) __builtin_memcpy(from.residual, residual, n * sizeof(float));
}

Source source_from(const Source& from, std::size_t at) {
  Source part = from;
  part.in += at;
  if (part.carried) part.carried += at;
  if (part.residual) part.residual += at;
  return part;
}

template <class Format>
void encode_tile(const Source& from, std::byte* out) {
  const Format format(from.key);
  const std::size_t bytes = tile_bytes(Format::kLayout, from.count);
  __builtin_memset(out + bytes - 4, 0, 4);  // what rounds the size up
  for_each_block<Format>(
      out, from.count,
      [&](std::size_t at, const Block<std::byte>& block) {
        encode_block(source_from(from, at), format, at, block);
      },
      [&](std::size_t at, const Block<std::byte>& block, std::size_t n) {
        encode_rest(source_from(from, at), format, at, block, n);
      });
}

// ---- Decoding.

template <class Format>
void decode_rest(const Encoded& block, std::size_t at, std::size_t n, float* decoded) {
  std::byte codes[kCodeBytes<Format>]{};
  __builtin_memcpy(codes, block.codes, (n * Format::kLayout.bits + 7) / 8);
  Format::decode({block.scale, block.zero, codes}, at, decoded);
}

template <class Format>
void decode_tile(const std::byte* in, float* out, std::size_t count) {
  for_each_block<Format>(
      in, count, [&](std::size_t at, const Encoded& block) { Format::decode(block, at, out + at); },
      [&](std::size_t at, const Encoded& block, std::size_t n) {
        float decoded[Format::kLayout.block];
        decode_rest<Format>(block, at, n, decoded);
        __builtin_memcpy(out + at, decoded, n * sizeof(float));
      });
}

template <class Format>
void add_tile(const std::byte* in, float* __restrict sum, std::size_t count) {
  constexpr std::size_t kBlock = Format::kLayout.block;
  alignas(64) float decoded[kBlock];
  for_each_block<Format>(
      in, count,
      [&](std::size_t at, const Encoded& block) {
        Format::decode(block, at, decoded);
        for (std::size_t i = 0; i < kBlock; ++i) sum[at + i] += decoded[i];
      },
      [&](std::size_t at, const Encoded& block, std::size_t n) {
        decode_rest<Format>(block, at, n, decoded);
        for (std::size_t i = 0; i < n; ++i) sum[at + i] += decoded[i];
      });
}

template <class Format>
constexpr TileKernels kTileKernels{
    .encode = encode_tile<Format>, .decode = decode_tile<Format>, .add = add_tile<Format>};

}  // namespace
}  // namespace quoit
