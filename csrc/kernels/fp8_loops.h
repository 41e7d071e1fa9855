#pragma once
// float8 e4m3: code = p / scale, scale = the largest of 128 numbers / 448.
#include "kernels/block_loops.h"

namespace quoit {
namespace {

struct Fp8Format {
  static constexpr BlockLayout kLayout = kFp8Layout;
  static constexpr std::size_t kBlock = kLayout.block;
  using Range = std::int32_t;

  explicit Fp8Format(std::uint64_t) {}

  static Range range_of(const float* p) { return largest_magnitude<kBlock>(p); }

  static bool is_finite(const float*, Range absmax) { return absmax < kInfinite; }

  void encode(const float* __restrict p, Range absmax, std::size_t,
              const Block<std::byte>& block) const {
    const Scale scale = scale_of(absmax, kE4m3Largest);
    store16(block.scale, scale.stored);
    if (absmax >= kInfinite) {
      __builtin_memset(block.codes, 0, kBlock);
      return;
    }
    auto* const __restrict codes = reinterpret_cast<std::uint8_t*>(block.codes);
    for (std::size_t i = 0; i < kBlock; ++i) codes[i] = e4m3_from_float(p[i] * scale.inverse);
  }

  static void decode(const Encoded& block, std::size_t, float* __restrict out) {
    const float scale = float_from_bf16(load16(block.scale));
    const auto* const __restrict codes = reinterpret_cast<const std::uint8_t*>(block.codes);
    for (std::size_t i = 0; i < kBlock; ++i) out[i] = float_from_e4m3(codes[i]) * scale;
  }
};

}  // namespace
}  // namespace quoit
