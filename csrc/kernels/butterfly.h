#pragma once
// A stage of the fast Walsh-Hadamard transform of a block.
#include <cstddef>

namespace quoit {
namespace {

inline constexpr std::size_t kButterflies = 128;

// x[i], x[i + kStride] -> their sum, their difference.
template <std::size_t kStride>
void butterfly(float* __restrict x) {
  for (std::size_t i = 0; i < kButterflies; i += 2 * kStride) {
    for (std::size_t j = i; j < i + kStride; ++j) {
      const float a = x[j], b = x[j + kStride];
      x[j] = a + b;
      x[j + kStride] = a - b;
    }
  }
}

}  // namespace
}  // namespace quoit
