#pragma once
// In which order low-rank factors are added up, on CPUs and CUDA devices alike, and the arithmetic
// of one element. Orders are such that both have enough to do at once; bands are there for devices,
// lanes and panels for CPUs, and devices can follow them:
//   M Q    a row in panels of kPanelCols columns, in eight lanes, added pairwise; what the last
//          panel has beyond whole lanes likewise; then the panels, in order
//   M^T P  rows in bands of kBandRows: groups of kRowsDown, each by itself, added up in order;
//          then the bands, in order
//   dot    kGramRows rows in eight lanes, added pairwise; then these sums, in order
// See cast.h for why nothing here has external linkage.
#include "kernels/low_rank_kernels.h"
#include "kernels/quantize.h"

namespace quoit {

inline constexpr std::size_t kPanelCols = 1024;
inline constexpr std::size_t kRowsDown = 4;
inline constexpr std::size_t kBandRows = 128;  // a multiple of kRowsDown
inline constexpr std::size_t kGramRows = 256;

// What is added to columns of length one before they are made orthonormal, so that those which
// depend on each other part; about what rounding has done to them already.
inline constexpr float kBlur = 0x1p-22F;

// What the squared length of a column, of length one, may shrink to by leaving out the others.
// Above what rounding can do to it.
inline constexpr double kShift = 0x1p-40;

// Never by exact arithmetic is it less.
QUOIT_HOST_DEVICE static constexpr double pivot_of(double left, double length) {
  return left > length * kShift / 2 ? left : length * kShift / 2;
}

// Number i of a column, times `by`, and a random one up to `noise`.
QUOIT_HOST_DEVICE static constexpr float blurred(float x, double by, float noise, std::uint32_t key,
                                                 std::uint32_t i) {
  const std::uint32_t random = mix_32(counter(key, i));
  const float at = static_cast<float>(static_cast<std::int32_t>(random)) * 0x1p-31F;
  return static_cast<float>(x * by) + at * noise;
}

// What `sent` loses of p; what was carried where that is not finite.
QUOIT_HOST_DEVICE static constexpr float rest_of(float p, float sent, float per_unit,
                                                 float carried) {
  const float rest = lost(p, sent, per_unit);
  return magnitude_of(rest) < kInfinite ? rest : carried;
}

// One NaN for all, as sums of several have the bits of either.
QUOIT_HOST_DEVICE static constexpr float one_nan(float x) {
  return x != x ? __builtin_nanf("") : x;
}

}  // namespace quoit
