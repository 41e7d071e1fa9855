#pragma once
// The arithmetic of one block and of one element of the codecs that quantise, on the host and on
// CUDA devices alike: every step is one IEEE operation or an integer one, so that all give the same
// bits. See cast.h for why nothing here has external linkage.
#include <cstddef>

#include "kernels/cast.h"

namespace quoit {

// How a tile lies in memory: the scales of all blocks (bfloat16), then their zero points (a byte
// each, if the format has them), then the codes; rounded up to 4 bytes with zeros.
struct BlockLayout {
  std::size_t block;   // elements that share a scale
  std::size_t header;  // bytes of a block beside its codes
  std::size_t bits;    // of a code
};

inline constexpr BlockLayout kInt8Layout{.block = 128, .header = 2, .bits = 8};

static constexpr std::size_t blocks_of(const BlockLayout& layout, std::size_t count) {
  return (count + layout.block - 1) / layout.block;
}

static constexpr std::size_t tile_bytes(const BlockLayout& layout, std::size_t count) {
  const std::size_t used = blocks_of(layout, count) * layout.header + (count * layout.bits + 7) / 8;
  return (used + 3) / 4 * 4;
}

// ---- Magnitudes, compared as integers: of floats without sign the order is the same, infinity is
// above all numbers, and NaNs are above infinity.

inline constexpr std::int32_t kInfinite = 0x7f800000;

QUOIT_HOST_DEVICE static constexpr std::int32_t magnitude_of(float x) {
  return __builtin_bit_cast(std::int32_t, x) & 0x7fffffff;
}

// ---- Scales.

// The least bfloat16 that is not below x; x is finite and not negative.
QUOIT_HOST_DEVICE static constexpr std::uint16_t bf16_above(float x) {
  return static_cast<std::uint16_t>((__builtin_bit_cast(std::uint32_t, x) + 0xffff) >> 16);
}

// What a block of numbers up to `absmax` is divided by, so that its codes go from -largest to
// largest. `inverse` is what to multiply by. Both are zero for a block of zeros, or of numbers so
// small that their scale would be denormal; the scale is NaN for one that is not finite.
struct Scale {
  std::uint16_t stored;
  float inverse;
};

QUOIT_HOST_DEVICE static constexpr Scale scale_of(std::int32_t absmax, std::int32_t largest_code) {
  const float value = __builtin_bit_cast(float, absmax);
  const auto largest = static_cast<float>(largest_code);
  if (absmax >= kInfinite) return {kBFloat16NaN, 0};
  if (value < largest * 0x1p-126F) return {0, 0};
  // Beyond this, the largest code would decode to infinity: 2^128 - 2^104 is the largest float.
  const std::uint32_t most =
      __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, kInfinite - 1) / largest) >> 16;
  const std::uint16_t above = bf16_above(value / largest);
  const auto stored = above < most ? above : static_cast<std::uint16_t>(most);
  return {stored, 1.0F / float_from_bf16(stored)};
}

// ---- Codes. None needs clamping: after all roundings, |x| <= absmax and scale >= absmax / largest
// make x * inverse at most largest * (1 + 2^-21), and largest * 1.0024 where the scale was capped.

// To the nearest integer, ties to even, for |x| < 2^22: one addition that leaves the integer in the
// low bits, where rounding would take an instruction that not every instruction set has.
QUOIT_HOST_DEVICE static constexpr std::int32_t rounded(float x) {
  constexpr float kShift = 0x1.8p23F;
  return __builtin_bit_cast(std::int32_t, x + kShift) - __builtin_bit_cast(std::int32_t, kShift);
}

inline constexpr std::int32_t kInt8Largest = 127;

}  // namespace quoit
