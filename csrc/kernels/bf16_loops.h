#pragma once
// bfloat16: every number by itself, to the nearest or at random. What is infinite or NaN stays so.
#include "kernels/block_loops.h"
#include "kernels/mix.h"

namespace quoit {
namespace {

template <bool kStochastic>
struct Bf16Format {
  static constexpr BlockLayout kLayout = kBf16Layout;
  static constexpr std::size_t kBlock = kLayout.block;
  explicit Bf16Format(std::uint64_t key) : key_(static_cast<std::uint32_t>(mix_64(key))) {}

  template <std::size_t kBlocks>
  static void measure(const float*, Group<kBlocks>&, std::size_t) {}

  template <std::size_t kBlocks>
  static void scale(Group<kBlocks>&) {}

  template <std::size_t kBlocks>
  static bool is_finite(const float* p, const Group<kBlocks>&, std::size_t) {
    return largest_magnitude<kBlock>(p) <= kBf16Most;
  }

  template <std::size_t kBlocks>
  void encode(const float* __restrict p, const Group<kBlocks>&, std::size_t, std::size_t at,
              const Block<std::byte>& block) const {
    auto* const __restrict codes = reinterpret_cast<Unaligned16*>(block.codes);
    const std::uint32_t first = counter(key_, static_cast<std::uint32_t>(at));
    for (std::uint32_t i = 0; i < kBlock; ++i) {
      if constexpr (kStochastic) {
        codes[i].value = bf16_at_random(p[i], mix_32(counter(first, i)));
      } else {
        codes[i].value = bf16_from_float(p[i]);
      }
    }
  }

  static void decode(const Encoded& block, std::size_t, float* __restrict out) {
    const auto* const __restrict codes = reinterpret_cast<const Unaligned16*>(block.codes);
    for (std::size_t i = 0; i < kBlock; ++i) out[i] = float_from_bf16(codes[i].value);
  }

 private:
  std::uint32_t key_;
};

}  // namespace
}  // namespace quoit
