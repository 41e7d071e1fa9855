#pragma once
// The arithmetic of one block and of one element of the codecs that quantise, on the host and on
// CUDA devices alike: every step is one IEEE operation or an integer one, so that all give the same
// bits. See cast.h for why nothing here has external linkage.
#include <cstddef>

#include "kernels/cast.h"
#include "kernels/mix.h"

namespace quoit {

// How a tile lies in memory: the scales of all blocks (bfloat16), then their zero points (a byte
// each, if the format has them), then the codes; rounded up to 4 bytes with zeros.
struct BlockLayout {
  std::size_t block;   // elements that share a scale
  std::size_t header;  // bytes of a block beside its codes
  std::size_t bits;    // of a code
  bool whole = false;  // a shorter last block has as many codes as the others
};

inline constexpr BlockLayout kBf16Layout{.block = 128, .header = 0, .bits = 16};
inline constexpr BlockLayout kFp8Layout{.block = 128, .header = 2, .bits = 8};
inline constexpr BlockLayout kInt4Layout{.block = 64, .header = 3, .bits = 4};
inline constexpr BlockLayout kInt4HadamardLayout{
    .block = 128, .header = 2, .bits = 4, .whole = true};
inline constexpr BlockLayout kInt8Layout{.block = 128, .header = 2, .bits = 8};

static constexpr std::size_t blocks_of(const BlockLayout& layout, std::size_t count) {
  return (count + layout.block - 1) / layout.block;
}

// Of the codes of `count` elements.
static constexpr std::size_t code_bytes(const BlockLayout& layout, std::size_t count) {
  const std::size_t codes = layout.whole ? blocks_of(layout, count) * layout.block : count;
  return (codes * layout.bits + 7) / 8;
}

static constexpr std::size_t tile_bytes(const BlockLayout& layout, std::size_t count) {
  const std::size_t headers = blocks_of(layout, count) * layout.header;
  return (headers + code_bytes(layout, count) + 3) / 4 * 4;
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

// ---- float8 e4m3: no infinity; 0x7f and 0xff are NaN, which no scaled number becomes.

inline constexpr std::int32_t kE4m3Largest = 448;

// To nearest, ties to even, for |x| < 464. Subnormals are kept.
QUOIT_HOST_DEVICE static constexpr std::uint8_t e4m3_from_float(float x) {
  const std::int32_t bits = __builtin_bit_cast(std::int32_t, x);
  const std::int32_t magnitude = bits & 0x7fffffff;
  // A power of two, no less than the smallest normal number, 2^-6.
  constexpr std::int32_t kSmallestNormal = (127 - 6) << 23;
  const std::int32_t power = magnitude & 0x7f800000;
  const std::int32_t from = power > kSmallestNormal ? power : kSmallestNormal;
  // Added to what is 2^20 times that power, the number is rounded to eighths of the power, which
  // are then counted by the low bits: 8 to 16, or less below the smallest normal number.
  const std::int32_t lifted = from + (20 << 23);
  const std::int32_t sum = __builtin_bit_cast(
      std::int32_t, __builtin_bit_cast(float, magnitude) + __builtin_bit_cast(float, lifted));
  const std::int32_t number = (sum - lifted) + ((from - kSmallestNormal) >> 20);
  return static_cast<std::uint8_t>((bits >> 24 & 0x80) | number);
}

// Exact, for all but the NaNs. By way of no float that is denormal: the CPU may take those for 0.
QUOIT_HOST_DEVICE static constexpr float float_from_e4m3(std::uint8_t x) {
  const std::uint32_t shifted = (x & 0x7fU) << 20;
  const std::uint32_t normal = shifted + ((127 - 7) << 23);
  // As in float_from_f16: a leading one is lent and taken off again.
  constexpr std::uint32_t kSmallestNormal = (127 - 6) << 23;
  const std::uint32_t subnormal =
      __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, shifted + kSmallestNormal) -
                                            __builtin_bit_cast(float, kSmallestNormal));
  const std::uint32_t magnitude = select_bits(shifted < (1 << 23), subnormal, normal);
  return __builtin_bit_cast(float, (x & 0x80U) << 24 | magnitude);
}

// ---- bfloat16.

// Up to here, no rounding leads to infinity.
inline constexpr std::int32_t kBf16Most = 0x7f7f0000;

// Away from zero as often as corresponds to what is cut off, so that the mean is x. `random`: the
// upper 16 bits count. Infinities stay, also those that finite numbers become.
QUOIT_HOST_DEVICE static constexpr std::uint16_t bf16_at_random(float x, std::uint32_t random) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t rounded_bits = (bits + (random >> 16)) >> 16;
  return static_cast<std::uint16_t>(x != x ? kBFloat16NaN : rounded_bits);
}

// The i-th number to hash after `from`: a Weyl sequence, so that hashes of neighbours and of close
// keys have nothing in common.
QUOIT_HOST_DEVICE static constexpr std::uint32_t counter(std::uint32_t from, std::uint32_t i) {
  return from + i * 0x9e3779b9;
}

// ---- int4 over the range of a block.

// How far numbers go on both sides of zero: magnitudes as bits, NaNs among them.
struct Extent {
  std::int32_t above;
  std::int32_t below;
};

// The magnitude of x if it is on that side, else not positive.
QUOIT_HOST_DEVICE static constexpr std::int32_t above_zero(float x) {
  return __builtin_bit_cast(std::int32_t, x);
}
QUOIT_HOST_DEVICE static constexpr std::int32_t below_zero(float x) {
  return static_cast<std::int32_t>(__builtin_bit_cast(std::uint32_t, x) ^ 0x80000000);
}

inline constexpr std::int32_t kInt4Steps = 15;

// Codes 0 to 15 stand for (code - zero) * scale.
struct Grid {
  Scale scale;
  std::int32_t zero;
  std::int32_t least;  // what code - zero may be
  std::int32_t most;
};

QUOIT_HOST_DEVICE static constexpr Grid grid_of(Extent extent) {
  const std::int32_t absmax = extent.above > extent.below ? extent.above : extent.below;
  if (absmax >= kInfinite) return {{kBFloat16NaN, 0}, 0, 0, 0};
  const float above = __builtin_bit_cast(float, extent.above);
  const float below = __builtin_bit_cast(float, extent.below);
  if (__builtin_bit_cast(float, absmax) < kInt4Steps * 0x1p-126F) return {{0, 0}, 0, 0, 0};
  const std::uint16_t stored = bf16_above(above / kInt4Steps + below / kInt4Steps);
  const float inverse = 1.0F / float_from_bf16(stored);
  const std::int32_t zero = rounded(below * inverse);
  // Near the largest float, a code could stand for more than that.
  const float finite = __builtin_bit_cast(float, kInfinite - 1) * inverse;
  const std::int32_t reach = finite < kInt4Steps ? static_cast<std::int32_t>(finite) : kInt4Steps;
  const std::int32_t over = kInt4Steps - zero;
  return {{stored, inverse}, zero, zero < reach ? -zero : -reach, over < reach ? over : reach};
}

QUOIT_HOST_DEVICE static constexpr std::int32_t code_on(const Grid& grid, float x) {
  const std::int32_t code = rounded(x * grid.scale.inverse);
  const std::int32_t from = code < grid.least ? grid.least : code;
  return (from > grid.most ? grid.most : from) + grid.zero;
}

// ---- int4 after a Hadamard transform.

inline constexpr std::int32_t kInt4Largest = 7;
inline constexpr std::int32_t kInt4Zero = 8;  // the code of 0

// Sums of 128 decoded numbers stay finite below this, 2^124: what reaches it counts as infinite.
inline constexpr std::int32_t kHadamardInfinite = (127 + 124) << 23;

// The sign of an element depends on its index in the tile, for all tensors and for ever.
QUOIT_HOST_DEVICE static constexpr float with_random_sign(float x, std::uint32_t index) {
  const std::uint32_t sign = mix_32(counter(0x243f6a88, index)) & 0x80000000;
  return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, x) ^ sign);
}

}  // namespace quoit
