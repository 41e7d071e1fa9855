#pragma once
// How a tile of which only the largest numbers are kept is laid out: the grid of their magnitudes
// (two bfloat16), how many there are (16 bits), a 12-bit index for each, ascending, then a code for
// each; rounded up to 4 bytes with zeros. A code is `bits` wide: the highest bit is set where the
// number is negative, the others say which point of the grid its magnitude is nearest to. See
// cast.h for why nothing here has external linkage.
#include <optional>
#include <string_view>

#include "kernels/quantize.h"

namespace quoit {

inline constexpr std::size_t kTopKHeader = 6;
inline constexpr std::size_t kTopKIndexBits = 12;

// What a codec of that name says.
struct TopKForm {
  double ratio;      // of the numbers that are kept: up to a quarter
  std::size_t bits;  // of a code: 2, 4 or 8
};

// Of a name such as "topk(ratio=0.01, bits=8)": nothing for other names, UsageError for other
// numbers.
std::optional<TopKForm> topk_named(std::string_view name);

// Of a tile of some count.
struct TopKLayout {
  std::size_t most;  // numbers that are kept; fewer where fewer are not zero
  std::size_t bits;  // of a code
};

QUOIT_HOST_DEVICE static constexpr TopKLayout topk_layout(const TopKForm& form, std::size_t count) {
  const auto most = static_cast<std::size_t>(form.ratio * static_cast<double>(count) + 0.5);
  return {most < 1 ? 1 : most, form.bits};
}

QUOIT_HOST_DEVICE static constexpr std::size_t topk_codes_at(const TopKLayout& layout) {
  return kTopKHeader + (layout.most * kTopKIndexBits + 7) / 8;
}

QUOIT_HOST_DEVICE static constexpr std::size_t topk_bytes(const TopKLayout& layout) {
  return (topk_codes_at(layout) + (layout.most * layout.bits + 7) / 8 + 3) / 4 * 4;
}

QUOIT_HOST_DEVICE static constexpr std::uint32_t topk_last_code(std::size_t bits) {
  return (1U << (bits - 1)) - 1;
}

// The points low, low + step, ... low + last * step, from the least of the magnitudes that are kept
// to the largest. None is larger than twice what it stands for, so that keeping a number never
// loses more than leaving it out.
struct TopKGrid {
  std::uint32_t low;  // as bfloat16; NaN: the whole tile is
  std::uint32_t step;
};

QUOIT_HOST_DEVICE static constexpr float topk_point(float low, float step, std::uint32_t code) {
  return low + static_cast<float>(static_cast<std::int32_t>(code)) * step;
}

// Of finite magnitudes, as bits. A CPU may take denormal numbers for 0: neither is one.
QUOIT_HOST_DEVICE static constexpr TopKGrid topk_grid(std::int32_t least, std::int32_t largest,
                                                      std::uint32_t last_code) {
  constexpr std::int32_t kNormal = 0x00800000;
  const std::uint32_t low = least < kNormal ? 0 : static_cast<std::uint32_t>(least) >> 16;
  const auto steps = static_cast<float>(static_cast<std::int32_t>(last_code));
  const float range = __builtin_bit_cast(float, largest) - float_from_bits16(low);
  if (range < steps * 0x1p-126F) return {low, 0};
  std::uint32_t step = bf16_above(range / steps);
  while (magnitude_of(topk_point(float_from_bits16(low), float_from_bits16(step), last_code)) >=
         kInfinite) {
    --step;  // the largest code would decode to infinity
  }
  return {low, step};
}

// The nearest point; `step` is infinite where there is only one. By division: the inverse of a
// large step would be denormal.
QUOIT_HOST_DEVICE static constexpr std::int32_t topk_code(float low, float step, float last_code,
                                                          float magnitude) {
  const float steps = (magnitude - low) / step;
  return rounded(steps < last_code ? steps : last_code);
}

// What a code stands for; above `bits` it may hold anything.
QUOIT_HOST_DEVICE static constexpr float topk_value(float low, float step, std::uint32_t last_code,
                                                    std::uint32_t code) {
  const float point = topk_point(low, step, code & last_code);
  return (code & (last_code + 1)) != 0 ? -point : point;
}

// Of a number that was kept, and its code.
QUOIT_HOST_DEVICE static constexpr float topk_lost(float p, float low, float step,
                                                   std::uint32_t code, float per_unit) {
  return (p - __builtin_copysignf(topk_point(low, step, code), p)) * per_unit;
}

// `pair`: the 16 bits at the byte where index i begins.
QUOIT_HOST_DEVICE static constexpr std::uint32_t topk_index(std::uint32_t pair, std::size_t i) {
  return i % 2 == 0 ? pair & 0xfff : pair >> 4;
}

// ---- The threshold: a search for the least magnitude that is kept. Of magnitudes that are equal
// to it, the first are kept.

// At least `wanted` magnitudes are at least `from`, and fewer are at least `to`.
struct TopKBetween {
  std::int32_t from;
  std::int32_t to;
  std::size_t found;       // at least `from`
  std::size_t beyond = 0;  // at least `to`
};

// `count(least)`: how many magnitudes are at least that.
template <class Count>
QUOIT_DEVICE void topk_probe(const Count& count, std::int32_t least, std::size_t wanted,
                             TopKBetween& between) {
  const std::size_t found = count(least);
  if (found >= wanted) {
    between.from = least;
    between.found = found;
  } else {
    between.to = least;
    between.beyond = found;
  }
}

// An eighth of the largest, of its bits: most of the time the largest do not differ by more.
QUOIT_HOST_DEVICE static constexpr std::int32_t topk_eighth(std::int32_t largest) {
  return largest - (3 << 23);
}

// Until no more than `enough` are found, or nothing lies between.
template <class Count>
QUOIT_DEVICE void topk_narrow(const Count& count, std::size_t wanted, std::size_t enough,
                              TopKBetween& between) {
  while (between.found > enough && between.to - between.from > 1)
    topk_probe(count, between.from + (between.to - between.from) / 2, wanted, between);
}

}  // namespace quoit
