#include "compress/low_rank.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "kernels/low_rank_order.h"

namespace quoit {
namespace {

constexpr std::string_view kAcp = "lowrank";
constexpr std::string_view kPowerSgd = "powersgd";

// Of gram, whose diagonal is that of columns of any length: R, with R^T R = gram, and the inverses
// of its diagonal on the diagonal.
void factorise(std::vector<double>& gram, std::size_t n, double shift) {
  for (std::size_t i = 0; i < n; ++i) {
    const double length = gram[i * n + i];
    double pivot = length * (1 + shift);
    for (std::size_t k = 0; k < i; ++k) pivot -= gram[k * n + i] * gram[k * n + i];
    const double inverse = 1 / std::sqrt(pivot_of(pivot, length));
    for (std::size_t j = i + 1; j < n; ++j) {
      double value = gram[i * n + j];
      for (std::size_t k = 0; k < i; ++k) value -= gram[k * n + i] * gram[k * n + j];
      gram[i * n + j] = value * inverse;
    }
    gram[i * n + i] = inverse;
  }
}

}  // namespace

std::string name_of(const LowRank& matrix) {
  return text(matrix.method == LowRank::Method::Acp ? kAcp : kPowerSgd, "(rank=", matrix.rank, ")");
}

std::optional<LowRank> low_rank_named(std::string_view name) {
  for (const auto method : {LowRank::Method::Acp, LowRank::Method::PowerSgd}) {
    const std::string begin = text(method == LowRank::Method::Acp ? kAcp : kPowerSgd, "(rank=");
    if (!name.starts_with(begin) || !name.ends_with(')')) continue;
    LowRank matrix{.method = method};
    const char* const last = name.data() + name.size() - 1;
    const auto [end, error] = std::from_chars(name.data() + begin.size(), last, matrix.rank);
    if (error == std::errc{} && end == last) return matrix;
  }
  return std::nullopt;
}

void make_orthonormal(const LowRankKernels& kernels, const Factor& a, std::size_t rows,
                      std::uint64_t key) {
  const std::size_t padded = padded_to_factor(rows);
  std::vector<double> gram(a.columns * a.columns);
  std::vector<double> scratch(a.columns * kSolveRows);
  for (std::size_t c = 0; c < a.columns; ++c) {
    float* const column = a.at + c * a.stride;
    double square = 0;
    kernels.gram({column, a.stride, 1}, padded, &square);
    const bool usable = square > 0 && square < INFINITY;
    if (!usable) std::fill_n(column, rows, 0.0F);
    kernels.blur(column, rows, usable ? std::sqrt(static_cast<double>(rows) / square) : 0,
                 usable ? kBlur : 1, static_cast<std::uint32_t>(mix_64(key + c)));
  }
  // CholeskyQR2 (Fukaya et al., 2014), first with a shift (2020).
  for (const double shift : {kShift, 0.0}) {
    kernels.gram(a, padded, gram.data());
    factorise(gram, a.columns, shift);
    kernels.solve(a, padded, gram.data(), scratch.data());
  }
}

}  // namespace quoit
