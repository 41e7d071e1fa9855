#pragma once
// What it takes to make columns orthonormal, in float64; additions have one order on all
// instruction sets. Internal linkage: see reduce_loops.h.
#include "kernels/low_rank_order.h"

namespace quoit {
namespace {

// Of two columns; in eight lanes.
double dot(const float* a, const float* b, std::size_t count) {
  double lanes[kFactorPad] = {};
  for (std::size_t i = 0; i < count; i += kFactorPad) {
    for (std::size_t l = 0; l < kFactorPad; ++l)
      lanes[l] += static_cast<double>(a[i + l]) * static_cast<double>(b[i + l]);
  }
  for (std::size_t half = kFactorPad / 2; half > 0; half /= 2) {
    for (std::size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

void low_rank_gram(const Factor& a, std::size_t rows, double* gram) {
  for (std::size_t i = 0; i < a.columns * a.columns; ++i) gram[i] = 0;
  for (std::size_t row = 0; row < rows; row += kGramRows) {
    const std::size_t count = rows - row < kGramRows ? rows - row : kGramRows;
    for (std::size_t i = 0; i < a.columns; ++i)
      for (std::size_t j = i; j < a.columns; ++j)
        gram[i * a.columns + j] += dot(a.at + i * a.stride + row, a.at + j * a.stride + row, count);
  }
}

void low_rank_solve(const Factor& a, std::size_t rows, const double* triangle, double* scratch) {
  for (std::size_t row = 0; row < rows; row += kSolveRows) {
    const std::size_t count = rows - row < kSolveRows ? rows - row : kSolveRows;
    for (std::size_t j = 0; j < a.columns; ++j) {
      float* const __restrict column = a.at + j * a.stride + row;
      double* const __restrict now = scratch + j * kSolveRows;
      for (std::size_t i = 0; i < count; ++i) now[i] = column[i];
      for (std::size_t before = 0; before < j; ++before) {
        const double by = triangle[before * a.columns + j];
        const double* const __restrict other = scratch + before * kSolveRows;
        for (std::size_t i = 0; i < count; ++i) now[i] -= by * other[i];
      }
      const double by = triangle[j * a.columns + j];
      for (std::size_t i = 0; i < count; ++i) {
        now[i] *= by;
        column[i] = static_cast<float>(now[i]);
      }
    }
  }
}

void low_rank_blur(float* a, std::size_t count, double by, float noise, std::uint32_t key) {
  for (std::size_t i = 0; i < count; ++i)
    a[i] = blurred(a[i], by, noise, key, static_cast<std::uint32_t>(i));
}

}  // namespace
}  // namespace quoit
