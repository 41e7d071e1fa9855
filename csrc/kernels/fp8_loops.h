#pragma once
// float8 e4m3: code = p / scale, scale = the largest of 128 numbers / 448.
#include "kernels/block_loops.h"

namespace quoit {
namespace {

struct Fp8Format : AbsmaxFormat<kE4m3Largest> {
  static constexpr BlockLayout kLayout = kFp8Layout;
  static constexpr std::size_t kBlock = kLayout.block;

  explicit Fp8Format(std::uint64_t) {}

  template <std::size_t kBlocks>
  void encode(const float* __restrict p, const Group<kBlocks>& group, std::size_t b, std::size_t,
              const Block<std::byte>& block) const {
    const float inverse = group.inverse[b];
    store16(block.scale, group.scale[b]);
    if (!is_finite(p, group, b)) {
      __builtin_memset(block.codes, 0, kBlock);
      return;
    }
    alignas(64) std::uint32_t codes[kBlock];
    for (std::size_t i = 0; i < kBlock; ++i) codes[i] = e4m3_from_float(p[i] * inverse);
    narrow<kBlock>(codes, reinterpret_cast<Unaligned8*>(block.codes));
  }

  static void decode(const Encoded& block, std::size_t, float* __restrict out) {
    const float scale = float_from_bf16(load16(block.scale));
    const auto* const __restrict codes = reinterpret_cast<const std::uint8_t*>(block.codes);
    for (std::size_t i = 0; i < kBlock; ++i) out[i] = float_from_e4m3(codes[i]) * scale;
  }
};

}  // namespace
}  // namespace quoit
