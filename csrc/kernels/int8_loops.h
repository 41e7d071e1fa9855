#pragma once
// int8: code = p / scale, scale = the largest of 128 numbers / 127.
#include "kernels/block_loops.h"

namespace quoit {
namespace {

struct Int8Format {
  static constexpr BlockLayout kLayout = kInt8Layout;
  static constexpr std::size_t kBlock = kLayout.block;
  using Range = std::int32_t;

  explicit Int8Format(std::uint64_t) {}

  static Range range_of(const float* p) { return largest_magnitude<kBlock>(p); }

  static bool is_finite(const float*, Range absmax) { return absmax < kInfinite; }

  void encode(const float* __restrict p, Range absmax, std::size_t,
              const Block<std::byte>& block) const {
    const Scale scale = scale_of(absmax, kInt8Largest);
    store16(block.scale, scale.stored);
    if (absmax >= kInfinite) {
      __builtin_memset(block.codes, 0, kBlock);
      return;
    }
    auto* const __restrict codes = reinterpret_cast<std::int8_t*>(block.codes);
    for (std::size_t i = 0; i < kBlock; ++i)
      codes[i] = static_cast<std::int8_t>(rounded(p[i] * scale.inverse));
  }

  static void decode(const Encoded& block, std::size_t, float* __restrict out) {
    const float scale = float_from_bf16(load16(block.scale));
    const auto* const __restrict codes = reinterpret_cast<const std::int8_t*>(block.codes);
    for (std::size_t i = 0; i < kBlock; ++i) out[i] = static_cast<float>(codes[i]) * scale;
  }
};

}  // namespace
}  // namespace quoit
