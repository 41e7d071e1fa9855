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

QUOIT_HOST_DEVICE static constexpr std::size_t blocks_of(const BlockLayout& layout,
                                                         std::size_t count) {
  return (count + layout.block - 1) / layout.block;
}

// Of the codes of `count` elements.
QUOIT_HOST_DEVICE static constexpr std::size_t code_bytes(const BlockLayout& layout,
                                                          std::size_t count) {
  const std::size_t codes = layout.whole ? blocks_of(layout, count) * layout.block : count;
  return (codes * layout.bits + 7) / 8;
}

QUOIT_HOST_DEVICE static constexpr std::size_t tile_bytes(const BlockLayout& layout,
                                                          std::size_t count) {
  const std::size_t headers = blocks_of(layout, count) * layout.header;
  return (headers + code_bytes(layout, count) + 3) / 4 * 4;
}

// ---- What a Source stands for (codec_kernels.h), and what is lost of it.

QUOIT_HOST_DEVICE static constexpr float given(float in, float scale) { return in * scale; }
QUOIT_HOST_DEVICE static constexpr float given(float in, float scale, float carried, float unit) {
  return in * scale + carried * unit;
}

QUOIT_HOST_DEVICE static constexpr float lost(float p, float decoded, float per_unit) {
  return (p - decoded) * per_unit;
}

// ---- Magnitudes, compared as integers: of floats without sign the order is the same, infinity is
// above all numbers, and NaNs are above infinity.

inline constexpr std::int32_t kInfinite = 0x7f800000;

QUOIT_HOST_DEVICE static constexpr std::int32_t magnitude_of(float x) {
  return __builtin_bit_cast(std::int32_t, x) & 0x7fffffff;
}

// ---- Scales.

// The bits of the least bfloat16 that is not below x; x is finite and not negative.
QUOIT_HOST_DEVICE static constexpr std::uint32_t bf16_above(float x) {
  return (__builtin_bit_cast(std::uint32_t, x) + 0xffff) >> 16;
}

QUOIT_HOST_DEVICE static constexpr float float_from_bits16(std::uint32_t bits) {
  return __builtin_bit_cast(float, bits << 16);
}

// What a block of numbers up to `absmax` is divided by, so that its codes go from -largest to
// largest. `inverse` is what to multiply by. Both are zero for a block of zeros, or of numbers so
// small that their scale would be denormal; the scale is NaN for one that is not finite. Without
// branches, as all here: compilers work on several blocks at a time.
struct Scale {
  std::uint32_t stored;  // as bfloat16
  float inverse;
};

QUOIT_HOST_DEVICE static constexpr Scale scale_or_none(std::uint32_t stored, std::int32_t absmax,
                                                       float least) {
  const bool none = absmax < __builtin_bit_cast(std::int32_t, least);
  const bool infinite = absmax >= kInfinite;
  const std::uint32_t inverse = __builtin_bit_cast(std::uint32_t, 1.0F / float_from_bits16(stored));
  return {select_bits(infinite, kBFloat16NaN, select_bits(none, 0, stored)),
          __builtin_bit_cast(float, select_bits(none | infinite, 0, inverse))};
}

QUOIT_HOST_DEVICE static constexpr Scale scale_of(std::int32_t absmax, std::int32_t largest_code) {
  const auto largest = static_cast<float>(largest_code);
  // Beyond this, the largest code would decode to infinity.
  const std::uint32_t most =
      __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, kInfinite - 1) / largest) >> 16;
  const std::uint32_t above = bf16_above(__builtin_bit_cast(float, absmax) / largest);
  return scale_or_none(above < most ? above : most, absmax, largest * 0x1p-126F);
}

// ---- Codes. None needs clamping: after all roundings, |x| <= absmax and scale >= absmax / largest
// make x * inverse at most largest * (1 + 2^-21), and largest * 1.0024 where the scale was capped.

// To the nearest integer, ties to even, for |x| < 2^22: one addition that leaves the integer in the
// low bits, where rounding would take an instruction that not every instruction set has.
QUOIT_HOST_DEVICE static constexpr std::int32_t rounded(float x) {
  constexpr float kShift = 0x1.8p23F;
  return __builtin_bit_cast(std::int32_t, x + kShift) - __builtin_bit_cast(std::int32_t, kShift);
}

// What a code stands for.
QUOIT_HOST_DEVICE static constexpr float scaled(std::int32_t code, float scale) {
  return static_cast<float>(code) * scale;
}

inline constexpr std::int32_t kInt8Largest = 127;

// ---- float8 e4m3: no infinity; 0x7f and 0xff are NaN, which no scaled number becomes.

inline constexpr std::int32_t kE4m3Largest = 448;

// To nearest, ties to even, for |x| < 464. Subnormals are kept.
QUOIT_HOST_DEVICE static constexpr std::uint32_t e4m3_from_float(float x) {
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
  return static_cast<std::uint32_t>((bits >> 24 & 0x80) | number);
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

// Of numbers up to `above` and down to -`below`: magnitudes as bits, NaNs among them.
QUOIT_HOST_DEVICE static constexpr Grid grid_of(std::int32_t above, std::int32_t below) {
  const float up = __builtin_bit_cast(float, above), down = __builtin_bit_cast(float, below);
  const Scale scale = scale_or_none(bf16_above(up / kInt4Steps + down / kInt4Steps),
                                    above > below ? above : below, kInt4Steps * 0x1p-126F);
  const std::uint32_t units = __builtin_bit_cast(std::uint32_t, down* scale.inverse);
  const bool infinite = below >= kInfinite;
  const std::int32_t zero = rounded(__builtin_bit_cast(float, select_bits(infinite, 0, units)));
  // Near the largest float, a code could stand for more than that.
  const float finite = __builtin_bit_cast(float, kInfinite - 1) * scale.inverse;
  const auto reach = static_cast<std::int32_t>(finite < kInt4Steps ? finite : float{kInt4Steps});
  const std::int32_t over = kInt4Steps - zero;
  return {scale, zero, zero < reach ? -zero : -reach, over < reach ? over : reach};
}

QUOIT_HOST_DEVICE static constexpr std::int32_t code_on(float inverse, std::int32_t least,
                                                        std::int32_t most, std::int32_t zero,
                                                        float x) {
  const std::int32_t code = rounded(x * inverse);
  const std::int32_t from = code < least ? least : code;
  return (from > most ? most : from) + zero;
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
