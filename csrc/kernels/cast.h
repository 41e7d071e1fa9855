#pragma once
// Scalar conversions between float and the two 16-bit formats, on the host and on CUDA devices
// alike. Branch-free, so that loops over them vectorise; internal linkage, so that a translation
// unit built for one instruction set never lends its copy to another. They expect the default
// rounding mode.
#include <cstdint>

#include "kernels/device.h"

namespace quoit {

// The NaN that every narrowing conversion and every reduction yields, whatever NaN went in.
inline constexpr std::uint16_t kBFloat16NaN = 0x7fc0;
inline constexpr std::uint16_t kFloat16NaN = 0x7e00;

// By mask: compilers move floating-point arithmetic, as that of subnormals below, into a branch of
// ?: and then cannot vectorise.
QUOIT_HOST_DEVICE static constexpr std::uint32_t select_bits(bool condition, std::uint32_t yes,
                                                             std::uint32_t no) {
  return no ^ ((yes ^ no) & (0U - static_cast<std::uint32_t>(condition)));
}

// Exact; a NaN keeps its payload.
QUOIT_HOST_DEVICE static constexpr float float_from_bf16(std::uint16_t x) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(x) << 16);
}

// To nearest, ties to even; beyond the largest value: infinity.
QUOIT_HOST_DEVICE static constexpr std::uint16_t bf16_from_float(float x) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return static_cast<std::uint16_t>(x != x ? kBFloat16NaN : rounded);
}

// Exact; a NaN keeps its payload and becomes quiet, as in the F16C instructions.
QUOIT_HOST_DEVICE static constexpr float float_from_f16(std::uint16_t x) {
  const std::uint32_t magnitude = x & 0x7fff;
  const std::uint32_t shifted = magnitude << 13;
  const std::uint32_t normal = shifted + ((127 - 15) << 23);
  const std::uint32_t infinite_or_nan =
      shifted | 0x7f800000 | (magnitude > 0x7c00 ? 0x00400000 : 0);
  // A subnormal has no leading one: with the exponent of 2^-14 it gets one, which is taken off
  // again.
  constexpr std::uint32_t kSmallestNormal = (127 - 14) << 23;
  const std::uint32_t subnormal =
      __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, shifted + kSmallestNormal) -
                                            __builtin_bit_cast(float, kSmallestNormal));
  const std::uint32_t finite = select_bits(magnitude < 0x0400, subnormal, normal);
  const std::uint32_t sign = static_cast<std::uint32_t>(x & 0x8000) << 16;
  return __builtin_bit_cast(float, sign | select_bits(magnitude < 0x7c00, finite, infinite_or_nan));
}

// To nearest, ties to even; beyond the largest value: infinity. Subnormals are kept.
QUOIT_HOST_DEVICE static constexpr std::uint16_t f16_from_float(float x) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t magnitude = bits & 0x7fffffff;
  constexpr std::uint32_t kOverflow = (127 + 16) << 23;  // 2^16 rounds to infinity, as all above do
  const std::uint32_t clamped = magnitude < kOverflow ? magnitude : kOverflow;
  const std::uint32_t normal =
      (clamped - ((127 - 15) << 23) + 0x0fff + ((clamped >> 13) & 1)) >> 13;
  // The last bit of 0.5f weighs 2^-24, the smallest subnormal: adding 0.5f rounds to that grid.
  const std::uint32_t subnormal =
      __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, clamped) + 0.5f) - 0x3f000000;
  const std::uint32_t rounded = select_bits(magnitude < ((127 - 14) << 23), subnormal, normal);
  const std::uint32_t sign = (bits >> 16) & 0x8000;
  return static_cast<std::uint16_t>(select_bits(x != x, kFloat16NaN, sign | rounded));
}

}  // namespace quoit
