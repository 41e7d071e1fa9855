#pragma once
// int8: code = p / scale, scale = the largest of 128 numbers / 127.
#include "kernels/block_loops.h"

namespace quoit {
namespace {

struct Int8Format : AbsmaxFormat<kInt8Largest> {
  static constexpr BlockLayout kLayout = kInt8Layout;
  static constexpr std::size_t kBlock = kLayout.block;

  explicit Int8Format(std::uint64_t) {}

  template <std::size_t kBlocks>
  void encode(const float* __restrict p, const Group<kBlocks>& group, std::size_t b, std::size_t,
              const Block<std::byte>& block) const {
    const float inverse = group.inverse[b];
    store16(block.scale, group.scale[b]);
    if (!is_finite(p, group, b)) {
      __builtin_memset(block.codes, 0, kBlock);
      return;
    }
    auto* const __restrict codes = reinterpret_cast<std::int8_t*>(block.codes);
    for (std::size_t i = 0; i < kBlock; i += 32) codes_32(p + i, inverse, 0, codes + i);
  }

  static void decode(const Encoded& block, std::size_t, float* __restrict out) {
    const float scale = float_from_bf16(load16(block.scale));
    const auto* const __restrict codes = reinterpret_cast<const std::int8_t*>(block.codes);
    for (std::size_t i = 0; i < kBlock; ++i) out[i] = scaled(codes[i], scale);
  }
};

}  // namespace
}  // namespace quoit
