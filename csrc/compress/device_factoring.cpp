#include "compress/device_factoring.h"

#include <algorithm>
#include <array>

#include "compress/factoring.h"
#include "kernels/cuda_low_rank.h"

namespace quoit {
namespace {

constexpr std::size_t kFactorsOfExchange = 3;
constexpr std::size_t kJudgedBytes = (sizeof(cuda::Judged) + 15) / 16 * 16;

// Columns of `length`, from one stride to another.
void copy_columns(const cuda::KernelSet& set, const float* from, std::size_t stride,
                  const Factor& to, std::size_t length, const cuda::Launch& launch) {
  std::vector<cuda::Copy> copies;
  for (std::size_t c = 0; c < to.columns; ++c)
    copies.push_back({reinterpret_cast<const std::byte*>(from + c * stride),
                      reinterpret_cast<std::byte*>(to.at + c * to.stride), length * sizeof(float)});
  cuda::copy(set, copies, launch);
}

}  // namespace

std::size_t DeviceFactoring::room(const LowRank& matrix) {
  const auto factors = kFactorsOfExchange * static_cast<std::size_t>(Factoring::exchanges(matrix));
  return kJudgedBytes + factors * Factoring::floats(matrix) * sizeof(float);
}

std::size_t DeviceFactoring::scratch(const LowRank& matrix) {
  const auto [rows, cols, rank] = std::array{matrix.rows, matrix.cols, matrix.rank};
  return std::max(cuda::product_scratch(rows, cols, rank),
                  cuda::basis_scratch(std::max(rows, cols), rank));
}

DeviceFactoring::DeviceFactoring(const Part& part, View data, const Terms& terms, std::byte* zeroed)
    : matrix_(*part.matrix),
      codec_(part.codec.get()),
      data_(data),
      residual_(part.residual),
      terms_(terms),
      turn_(static_cast<std::uint64_t>(*part.matrix->turn)),
      exchanges_(Factoring::exchanges(*part.matrix)),
      memory_(zeroed) {}

bool DeviceFactoring::sends_rows(int exchange) const {
  return matrix_.method == LowRank::Method::Acp ? turn_ % 2 == 0 : exchange == 0;
}

DeviceFactoring::Factors DeviceFactoring::at(int exchange) const {
  const std::size_t floats = Factoring::floats(matrix_);
  float* const first = reinterpret_cast<float*>(memory_ + kJudgedBytes) +
                       static_cast<std::size_t>(exchange) * kFactorsOfExchange * floats;
  return {first, first + floats, first + 2 * floats};
}

Factor DeviceFactoring::down(float* at) const {
  return {at, factor_stride(matrix_.rows), matrix_.rank};
}

Factor DeviceFactoring::across(float* at) const {
  return {at, factor_stride(matrix_.cols), matrix_.rank};
}

cuda::LowRankMatrix DeviceFactoring::matrix() const {
  return {data_.data,  residual_,     matrix_.rows, matrix_.cols,
          data_.dtype, terms_.before, terms_.unit};
}

View DeviceFactoring::sent(int exchange) const {
  float* const sum = at(exchange).sum;
  const Factor factor = sends_rows(exchange) ? down(sum) : across(sum);
  return {reinterpret_cast<std::byte*>(sum), factor.columns * factor.stride, DType::Float32};
}

void DeviceFactoring::give(int exchange, std::byte* scratch, const cuda::KernelSet& set,
                           const cuda::Launch& launch) const {
  const bool rows = sends_rows(exchange);
  const Factors here = at(exchange);
  const Factor basis = rows ? across(here.basis) : down(here.basis);
  const Factor own = rows ? down(here.own) : across(here.own);
  const std::size_t length = rows ? matrix_.cols : matrix_.rows;
  if (exchange == 0)
    copy_columns(set, rows ? matrix_.q : matrix_.p, length, basis, length, launch);
  else
    copy_columns(set, at(exchange - 1).sum, basis.stride, basis, length, launch);
  const std::uint64_t key = 2 * turn_ + (exchange == 0 ? 0 : 1);
  cuda::make_orthonormal(set, basis, length, key << 32, scratch, launch);
  (rows ? cuda::low_rank_times : cuda::low_rank_transposed_times)(set, matrix(), basis, own,
                                                                  scratch, launch);
  const View sum = sent(exchange);
  const cuda::Copy copy{reinterpret_cast<const std::byte*>(here.own), sum.data, sum.bytes()};
  cuda::copy(set, {&copy, 1}, launch);
}

void DeviceFactoring::restore(const cuda::KernelSet& set, const cuda::Launch& launch) const {
  const bool rows = sends_rows(exchanges_ - 1);
  const Factors last = at(exchanges_ - 1);
  const auto pair = [&](float* factor) {
    return rows ? FactorPair{down(factor), across(last.basis)}
                : FactorPair{down(last.basis), across(factor)};
  };
  const Factor sum = rows ? down(last.sum) : across(last.sum);
  auto* const judged = reinterpret_cast<cuda::Judged*>(memory_);
  cuda::judge_sum(set, sum, judged, launch);
  cuda::low_rank_restore(set, matrix(), pair(last.own), pair(last.sum), judged, launch);
  cuda::keep_sum(set, sum, judged, rows ? matrix_.p : matrix_.q, rows ? matrix_.rows : matrix_.cols,
                 launch);
}

}  // namespace quoit
