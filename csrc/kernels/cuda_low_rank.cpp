#include "kernels/cuda_low_rank.h"

#include <algorithm>

#include "kernels/cuda.h"
#include "kernels/low_rank_order.h"

namespace quoit::cuda {
namespace {

void check_factor(const Factor& factor) {
  QUOIT_CHECK(reinterpret_cast<std::uintptr_t>(factor.at) % 16 == 0, UsageError,
              "a low-rank factor on a CUDA device lies at ", static_cast<const void*>(factor.at),
              ", but must lie at a multiple of 16: allocate it by itself");
}

std::size_t gram_parts(std::size_t rows, std::size_t rank) {
  return ceil_div(padded_to_factor(rows), kGramRows) * rank * rank;
}

}  // namespace

std::size_t product_scratch(std::size_t rows, std::size_t cols, std::size_t rank) {
  const std::size_t across = (ceil_div(cols, kPanelCols) + 1) * rows;
  const std::size_t down = ceil_div(rows, kBandRows) * padded_to_factor(cols);
  return std::max(across, down) * rank * sizeof(float);
}

std::size_t basis_scratch(std::size_t rows, std::size_t rank) {
  return (gram_parts(rows, rank) + rank * rank + rank * padded_to_factor(rows)) * sizeof(double);
}

void low_rank_times(const KernelSet& set, const LowRankMatrix& m, const Factor& right,
                    const Factor& into, std::byte* scratch, const Launch& launch) {
  check_factor(right);
  set.low_rank.times({m, right, into, reinterpret_cast<float*>(scratch)}, launch);
  set.check("a product with a factor");
}

void low_rank_transposed_times(const KernelSet& set, const LowRankMatrix& m, const Factor& left,
                               const Factor& into, std::byte* scratch, const Launch& launch) {
  check_factor(left);
  check_factor(into);
  set.low_rank.transposed_times({m, left, into, reinterpret_cast<float*>(scratch)}, launch);
  set.check("a product with a factor");
}

void make_orthonormal(const KernelSet& set, const Factor& a, std::size_t rows, std::uint64_t key,
                      std::byte* scratch, const Launch& launch) {
  check_factor(a);
  auto* const parts = reinterpret_cast<double*>(scratch);
  double* const triangle = parts + gram_parts(rows, a.columns);
  set.low_rank.orthonormal({a, rows, key, 0, parts, triangle, triangle + a.columns * a.columns},
                           launch);
  set.check("an orthonormal basis");
}

void judge_sum(const KernelSet& set, const Factor& sum, Judged* judged, const Launch& launch) {
  check_factor(sum);
  set.low_rank.judge({sum, judged, nullptr, 0}, launch);
  set.check("a look at a factor");
}

void low_rank_restore(const KernelSet& set, const LowRankMatrix& m, const FactorPair& given,
                      const FactorPair& sum, const Judged* judged, const Launch& launch) {
  for (const Factor& factor : {given.left, given.right, sum.left, sum.right}) check_factor(factor);
  set.low_rank.restore({m, given, sum, judged, 1 / m.unit}, launch);
  set.check("a product of factors");
}

void keep_sum(const KernelSet& set, const Factor& sum, const Judged* judged, float* kept,
              std::size_t length, const Launch& launch) {
  set.low_rank.keep({sum, const_cast<Judged*>(judged), kept, length}, launch);
  set.check("a copy of a factor");
}

}  // namespace quoit::cuda
