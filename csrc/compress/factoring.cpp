#include "compress/factoring.h"

#include <algorithm>
#include <cmath>

#include "kernels/low_rank_order.h"

namespace quoit {
namespace {

// Elements of a stripe: few enough that others get their turn, and that a copy stays in cache.
constexpr std::size_t kStripe = 1 << 16;

bool all_finite(const float* x, std::size_t count) {
  return std::all_of(x, x + count, [](float value) { return std::isfinite(value); });
}

bool all_zero(const float* x, std::size_t count) {
  return std::all_of(x, x + count, [](float value) { return value == 0; });
}

Factor from_row(const Factor& factor, std::size_t row) {
  return {factor.at + row, factor.stride, factor.columns};
}

}  // namespace

void check_low_rank(const Part& part) {
  const LowRank& m = *part.matrix;
  const std::string name = name_of(m);
  const std::size_t smaller = std::min(m.rows, m.cols);
  QUOIT_CHECK(m.rows * m.cols == part.where.count, UsageError, name, " of a ", m.rows, " x ",
              m.cols, " matrix, but the tensor has ", part.where.count,
              " elements: rows times columns must be all of it");
  QUOIT_CHECK(m.rank >= 1 && m.rank <= smaller, UsageError, name, " of a ", m.rows, " x ", m.cols,
              " matrix: the rank can be 1 to ", smaller,
              ", the smaller side; choose a smaller one, or another codec for this tensor");
  const bool has_p = m.p || m.method == LowRank::Method::PowerSgd;
  QUOIT_CHECK(part.residual && has_p && m.q && m.turn, UsageError, name,
              " needs a residual, memory for its factors, and a turn");
  QUOIT_CHECK(part.codec->name() == "raw", UsageError, name, " with the codec ", part.codec->name(),
              ": factors travel raw");
}

std::size_t Factoring::floats(const LowRank& matrix) {
  return matrix.rank * factor_stride(std::max(matrix.rows, matrix.cols));
}

Factoring::Factoring(const Part& part, View data, const Terms& terms, float* memory)
    : matrix_(*part.matrix),
      codec_(part.codec.get()),
      data_(data),
      residual_(part.residual),
      terms_(terms),
      own_(memory),
      basis_(memory + floats(matrix_)),
      band_(memory + 2 * floats(matrix_)) {}

int Factoring::exchanges(const LowRank& matrix) {
  return matrix.method == LowRank::Method::Acp ? 1 : 2;
}

bool Factoring::sends_rows() const {
  return matrix_.method == LowRank::Method::Acp ? *matrix_.turn % 2 == 0 : exchange_ == 0;
}

Factor Factoring::down(float* at) const { return {at, factor_stride(matrix_.rows), matrix_.rank}; }

Factor Factoring::across(float* at) const {
  return {at, factor_stride(matrix_.cols), matrix_.rank};
}

void Factoring::begin(int exchange) {
  exchange_ = exchange;
  const bool rows = sends_rows();
  const Factor basis = rows ? across(basis_) : down(basis_);
  const std::size_t length = rows ? matrix_.cols : matrix_.rows;
  std::fill_n(basis_, floats(matrix_), 0.0F);
  const float* const kept = rows ? matrix_.q : matrix_.p;
  for (std::size_t c = 0; c < matrix_.rank; ++c) {
    const float* const from = exchange == 0 ? kept + c * length : sum_ + c * basis.stride;
    std::copy_n(from, length, basis.at + c * basis.stride);
  }
  const std::uint64_t key = 2 * static_cast<std::uint64_t>(*matrix_.turn) + (exchange == 0 ? 0 : 1);
  make_orthonormal(kernels().low_rank, basis, length, key << 32);
  std::fill_n(own_, floats(matrix_), 0.0F);
  std::fill_n(band_, floats(matrix_), 0.0F);
}

std::size_t Factoring::stripe_rows() const {
  return std::max<std::size_t>(1, kStripe / matrix_.cols / 4) * 4;
}

std::size_t Factoring::stripes() const { return ceil_div(matrix_.rows, stripe_rows()); }

Factoring::Stripe Factoring::stripe(std::size_t index) {
  const std::size_t row = index * stripe_rows();
  const std::size_t rows = std::min(stripe_rows(), matrix_.rows - row);
  const Slice where{row * matrix_.cols, rows * matrix_.cols};
  Stripe stripe{row, data_.at(where), {.count = where.count, .scale = terms_.before}};
  if (data_.dtype != DType::Float32) wide_.resize(std::max(wide_.size(), where.count));
  stripe.p.in = widened(stripe.data, kernels(), wide_.data());
  stripe.p.carried = residual_ + where.begin;
  stripe.p.unit = terms_.unit;
  stripe.p.per_unit = 1 / terms_.unit;
  return stripe;
}

void Factoring::multiply(std::size_t index) {
  const Stripe now = stripe(index);
  if (sends_rows())
    kernels().low_rank.times(now.p, matrix_.cols, across(basis_), from_row(down(own_), now.row));
  else
    multiply_down(now);
}

// Band by band, of which stripes may have several or a part.
void Factoring::multiply_down(const Stripe& stripe) {
  const std::size_t end = stripe.row + stripe.p.count / matrix_.cols;
  for (std::size_t row = stripe.row; row < end;) {
    const std::size_t next = std::min(end, (row / kBandRows + 1) * kBandRows);
    const std::size_t past = (row - stripe.row) * matrix_.cols;
    Source p = stripe.p;
    p.in += past;
    p.carried += past;
    p.count = (next - row) * matrix_.cols;
    kernels().low_rank.transposed_times(p, matrix_.cols, from_row(down(basis_), row),
                                        across(band_));
    row = next;
    if (row % kBandRows != 0 && row != matrix_.rows) continue;
    const std::size_t count = matrix_.rank * across(band_).stride;
    kernels().add(band_, own_, count);
    std::fill_n(band_, count, 0.0F);
  }
}

View Factoring::give(float* sum) {
  sum_ = sum;
  const std::size_t count = matrix_.rank * (sends_rows() ? down(sum_) : across(sum_)).stride;
  std::copy_n(own_, count, sum_);
  return {reinterpret_cast<std::byte*>(sum_), count, DType::Float32};
}

void Factoring::take() {
  const Factor sum = sends_rows() ? down(sum_) : across(sum_);
  finite_ = all_finite(sum_, sum.stride * sum.columns);
}

void Factoring::restore(std::size_t index) {
  Stripe now = stripe(index);
  if (finite_) now.p.residual = residual_ + now.row * matrix_.cols;
  const auto pair = [&](float* factor) {
    return sends_rows() ? FactorPair{from_row(down(factor), now.row), across(basis_)}
                        : FactorPair{from_row(down(basis_), now.row), across(factor)};
  };
  float* const out = place_for(now.data, wide_.data());
  kernels().low_rank.restore(now.p, matrix_.cols, pair(own_), pair(sum_), out);
  narrow(out, kernels(), now.data);
}

void Factoring::end() {
  const bool rows = sends_rows();
  *matrix_.turn += 1;
  if (!finite_) return;
  const Factor sum = rows ? down(sum_) : across(sum_);
  const std::size_t length = rows ? matrix_.rows : matrix_.cols;
  // Zeros say nothing of where gradients will lie.
  if (!all_zero(sum_, sum.stride * sum.columns)) {
    float* const kept = rows ? matrix_.p : matrix_.q;
    for (std::size_t c = 0; c < matrix_.rank; ++c)
      std::copy_n(sum.at + c * sum.stride, length, kept + c * length);
  }
}

}  // namespace quoit
