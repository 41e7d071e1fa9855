#pragma once
// How a tile of signs is laid out: a bfloat16 scale for each block, padded to a multiple of 4
// bytes, then a bit for each element, the first one lowest, in words of 32. Set: negative.
#include <cstddef>
#include <cstdint>

#include "kernels/cast.h"

namespace quoit {

inline constexpr std::size_t kSignBlock = 256;
inline constexpr std::size_t kSignWord = 32;
inline constexpr std::size_t kSignWords = kSignBlock / kSignWord;  // of a block

QUOIT_HOST_DEVICE static constexpr std::size_t sign_scale_bytes(std::size_t count) {
  return ((count + kSignBlock - 1) / kSignBlock * sizeof(std::uint16_t) + 3) / 4 * 4;
}

QUOIT_HOST_DEVICE static constexpr std::size_t sign_bytes(std::size_t count) {
  return sign_scale_bytes(count) + (count + kSignWord - 1) / kSignWord * sizeof(std::uint32_t);
}

// The mean of the magnitudes, finite, as a scale.
QUOIT_HOST_DEVICE static constexpr std::uint16_t sign_scale(float mean) {
  const std::uint16_t rounded = bf16_from_float(mean);
  return rounded < 0x7f80 ? rounded : 0x7f7f;  // the largest stays finite
}

// `bit` is the element's bit in its word, where it is; the rest of `bit` is 0.
QUOIT_HOST_DEVICE static constexpr float sign_value(float scale, std::uint32_t bit) {
  const std::uint32_t sign = bit != 0 ? 0x80000000U : 0U;
  return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, scale) ^ sign);
}

}  // namespace quoit
