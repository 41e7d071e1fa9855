#pragma once
// int4, two codes in a byte, the first in its low half.
#include "kernels/block_loops.h"
#include "kernels/butterfly.h"

namespace quoit {
namespace {

// kCount codes of which each has a byte.
template <std::size_t kCount>
void pack_nibbles(const std::uint8_t* __restrict codes, std::byte* __restrict out) {
  const auto* const pairs = reinterpret_cast<const Unaligned16*>(codes);
  auto* const bytes = reinterpret_cast<std::uint8_t*>(out);
  for (std::size_t i = 0; i < kCount / 2; ++i) {
    const std::uint16_t pair = pairs[i].value;
    bytes[i] = static_cast<std::uint8_t>(pair | pair >> 4);
  }
}

template <std::size_t kCount>
void unpack_nibbles(const std::byte* __restrict in, std::uint8_t* __restrict codes) {
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(in);
  auto* const pairs = reinterpret_cast<Unaligned16*>(codes);
  for (std::size_t i = 0; i < kCount / 2; ++i) {
    const std::uint16_t pair = bytes[i];
    pairs[i].value = static_cast<std::uint16_t>((pair | pair << 4) & 0x0f0f);
  }
}

// code = p / scale + zero, from 0 to 15: the range of 64 numbers, widened to hold 0, which the code
// `zero` stands for exactly.
struct Int4Format {
  static constexpr BlockLayout kLayout = kInt4Layout;
  static constexpr std::size_t kBlock = kLayout.block;

  explicit Int4Format(std::uint64_t) {}

  template <std::size_t kBlocks>
  static void measure(const float* p, Group<kBlocks>& group, std::size_t b) {
    range_in_lanes(p, kBlock, group.above_in[b], group.below_in[b]);
  }

  template <std::size_t kBlocks>
  static void scale(Group<kBlocks>& group) {
    settle(group.above_in, group.above);
    settle(group.below_in, group.below);
    for (std::size_t b = 0; b < kBlocks; ++b) {
      group.below[b] = group.below[b] > 0 ? group.below[b] : 0;
      const Grid grid = grid_of(group.above[b], group.below[b]);
      group.scale[b] = grid.scale.stored;
      group.inverse[b] = grid.scale.inverse;
      group.zero[b] = grid.zero;
      group.least[b] = grid.least;
      group.most[b] = grid.most;
    }
  }

  template <std::size_t kBlocks>
  static bool is_finite(const float*, const Group<kBlocks>& group, std::size_t b) {
    return group.above[b] < kInfinite && group.below[b] < kInfinite;
  }

  template <std::size_t kBlocks>
  void encode(const float* __restrict p, const Group<kBlocks>& group, std::size_t b, std::size_t,
              const Block<std::byte>& block) const {
    store16(block.scale, group.scale[b]);
    *block.zero = static_cast<std::byte>(group.zero[b]);
    const std::int32_t zero = group.zero[b];
    const auto least = static_cast<std::int8_t>(group.least[b] + zero);
    const auto most = static_cast<std::int8_t>(group.most[b] + zero);
    alignas(64) std::int8_t codes[kBlock];
    for (std::size_t i = 0; i < kBlock; i += 32) codes_32(p + i, group.inverse[b], zero, codes + i);
    alignas(64) std::uint8_t kept[kBlock];
    for (std::size_t i = 0; i < kBlock; ++i) {
      const std::int8_t from = codes[i] < least ? least : codes[i];
      kept[i] = static_cast<std::uint8_t>(from > most ? most : from);
    }
    pack_nibbles<kBlock>(kept, block.codes);
  }

  static void decode(const Encoded& block, std::size_t, float* __restrict out) {
    const float scale = float_from_bf16(load16(block.scale));
    const auto zero = static_cast<std::int32_t>(*block.zero);
    alignas(64) std::uint8_t codes[kBlock];
    unpack_nibbles<kBlock>(block.codes, codes);
    for (std::size_t i = 0; i < kBlock; ++i) out[i] = scaled(std::int32_t{codes[i]} - zero, scale);
  }
};

// The fast Walsh-Hadamard transform, not normalised: applied twice, it multiplies by the size of
// the block.
void butterflies(float* __restrict x) {
  short_butterflies(x);
  butterfly<8>(x);
  butterfly<16>(x);
  butterfly<32>(x);
  butterfly<64>(x);
}

// Bit i of word w: the random sign of element 32 w + i of a tile.
struct RandomSigns {
  std::uint32_t words[kTile / 32] = {};

  constexpr RandomSigns() {
    for (std::uint32_t i = 0; i < kTile; ++i) {
      const bool negative = with_random_sign(1.0F, i) < 0;
      words[i / 32] |= static_cast<std::uint32_t>(negative) << i % 32;
    }
  }
};
constexpr RandomSigns kRandomSigns;

// kCount elements from `at` on, multiples of 32: with_random_sign(in[i] * factor).
template <std::size_t kCount>
void random_signs(const float* __restrict in, float factor, std::size_t at, float* __restrict out) {
  for (std::size_t i = 0; i < kCount; i += 32) {
    const std::uint32_t word = kRandomSigns.words[(at + i) / 32];
    for (std::size_t l = 0; l < 32; ++l)
      out[i + l] = sign_value(in[i + l] * factor, word & kSignBit.at[l]);
  }
}

// The same after a random rotation, which spreads what is large over all of 128 numbers.
struct Int4HadamardFormat {
  static constexpr BlockLayout kLayout = kInt4HadamardLayout;
  static constexpr std::size_t kBlock = kLayout.block;

  explicit Int4HadamardFormat(std::uint64_t) {}

  template <std::size_t kBlocks>
  static void measure(const float* p, Group<kBlocks>& group, std::size_t b) {
    group.above[b] = largest_magnitude<kBlock>(p);
  }

  template <std::size_t kBlocks>
  static void scale(Group<kBlocks>&) {}

  template <std::size_t kBlocks>
  static bool is_finite(const float*, const Group<kBlocks>& group, std::size_t b) {
    return group.above[b] < kHadamardInfinite;
  }

  template <std::size_t kBlocks>
  void encode(const float* __restrict p, const Group<kBlocks>& group, std::size_t b, std::size_t at,
              const Block<std::byte>& block) const {
    if (!is_finite(p, group, b)) {
      store16(block.scale, kBFloat16NaN);
      __builtin_memset(block.codes, 0, kCodeBytes<Int4HadamardFormat>);
      return;
    }
    alignas(64) float rotated[kBlock];
    random_signs<kBlock>(p, 1.0F / kBlock, at, rotated);
    butterflies(rotated);
    const Scale scale = scale_of(largest_magnitude<kBlock>(rotated), kInt4Largest);
    store16(block.scale, scale.stored);
    alignas(64) std::int8_t codes[kBlock];
    for (std::size_t i = 0; i < kBlock; i += 32)
      codes_32(rotated + i, scale.inverse, kInt4Zero, codes + i);
    pack_nibbles<kBlock>(reinterpret_cast<const std::uint8_t*>(codes), block.codes);
  }

  static void decode(const Encoded& block, std::size_t at, float* __restrict out) {
    const float scale = float_from_bf16(load16(block.scale));
    if (!(scale > 0)) {
      for (std::size_t i = 0; i < kBlock; ++i) out[i] = scale;
      return;
    }
    alignas(64) std::uint8_t codes[kBlock];
    alignas(64) float rotated[kBlock];
    unpack_nibbles<kBlock>(block.codes, codes);
    for (std::size_t i = 0; i < kBlock; ++i)
      rotated[i] = scaled(std::int32_t{codes[i]} - kInt4Zero, scale);
    butterflies(rotated);
    random_signs<kBlock>(rotated, 1, at, out);
  }
};

}  // namespace
}  // namespace quoit
