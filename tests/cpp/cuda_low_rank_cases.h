#pragma once
// The low-rank kernels of kernels/cuda_low_rank.h beside compress/factoring.cpp, bit for bit: one
// call of ACP-SGD, in either turn.
#include "compress/factoring.h"
#include "cuda_machine.h"
#include "kernels/cuda_low_rank.h"

namespace quoit::test {

struct MatrixCase {
  std::size_t rows;
  std::size_t cols;
  std::size_t rank;
  DType dtype = DType::Float32;
  std::size_t past = 0;  // where device memory of data and residual begins
};

inline std::vector<float> factor_memory(std::size_t side, std::size_t rank) {
  return std::vector<float>(rank * factor_stride(side));
}

inline Factor factor_at(const Memory& memory, std::size_t side, std::size_t rank) {
  return {memory.floats(), factor_stride(side), rank};
}

// `zero`: of data and residual, as of a parameter that is not used.
inline void check_low_rank_call(const Machine& machine, const MatrixCase& its, Numbers kind,
                                std::int64_t turn, bool zero = false) {
  const auto [rows, cols, rank, dtype, past] = its;
  const cuda::KernelSet& set = machine.kernels;
  const bool down = turn % 2 == 0;  // sends M Q
  const std::string what = text("low rank ", rows, " x ", cols, ", ", rank, " columns of ",
                                name_of(dtype), past > 0 ? " aside" : "", ", numbers ",
                                static_cast<int>(kind), zero ? ", zeros" : "", ", turn ", turn);
  const std::size_t count = rows * cols;
  std::vector<float> numbers = random_numbers(count, kind);
  std::vector<float> residual = random_numbers(count, Numbers::Plain);
  if (zero) {
    std::fill(numbers.begin(), numbers.end(), 0.0F);
    residual = numbers;
  }
  std::vector<std::byte> data = as(dtype, numbers);
  std::vector<float> p = random_numbers(rows * rank, Numbers::Plain);
  std::vector<float> q = random_numbers(cols * rank, Numbers::Plain);
  if (turn == 0) std::fill(q.begin(), q.end(), 0.0F);
  const Memory device_data(machine, data, past * size_of(dtype));
  const Memory device_residual(machine, bytes_of(residual), 4 * past);
  const Memory device_kept(machine, bytes_of(down ? p : q), 4 * past);
  const std::size_t from = down ? cols : rows, to = down ? rows : cols;

  const Terms terms{0.5F, 1, 8, 0, 0};
  const cuda::LowRankMatrix m{
      device_data.data(), device_residual.floats(), rows, cols, dtype, terms.before, terms.unit};
  Part part{{0, count}, codec_named("raw", Isa::Baseline), residual.data()};
  part.matrix = std::make_shared<const LowRank>(
      LowRank{LowRank::Method::Acp, rank, rows, cols, p.data(), q.data(), &turn});
  const std::size_t floats = Factoring::floats(*part.matrix);
  std::vector<float> memory(Factoring::kFactors * floats, 5);
  Factoring cpu(part, {data.data(), count, dtype}, terms, memory.data());
  const std::vector<std::byte> scratch_bytes(
      std::max(cuda::product_scratch(rows, cols, rank), cuda::basis_scratch(from, rank)));
  const Memory scratch(machine, scratch_bytes, 0);

  // The basis.
  std::vector<float> basis = factor_memory(from, rank);
  for (std::size_t c = 0; c < rank; ++c)
    std::copy_n((down ? q : p).data() + c * from, from, basis.data() + c * factor_stride(from));
  const Memory device_basis(machine, bytes_of(basis), 0);
  const Factor by = factor_at(device_basis, from, rank);
  cuda::make_orthonormal(set, by, from, (2 * static_cast<std::uint64_t>(turn)) << 32,
                         scratch.data(), {});
  cpu.begin(0);
  std::copy_n(memory.data() + floats, basis.size(), basis.data());
  expect(same(device_basis.bytes(what), bytes_of(basis), true), what, ": another basis");

  // The product.
  const Memory device_own(machine, bytes_of(factor_memory(to, rank)), 0);
  const Factor own = factor_at(device_own, to, rank);
  (down ? cuda::low_rank_times : cuda::low_rank_transposed_times)(set, m, by, own, scratch.data(),
                                                                  {});
  std::vector<float> sum = factor_memory(to, rank);
  for (std::size_t i = 0; i < cpu.stripes(); ++i) cpu.multiply(i);
  static_cast<void>(cpu.give(sum.data()));
  expect(same(device_own.bytes(what), bytes_of(sum), true), what, ": another factor");

  // As if others had given something, too.
  for (float& x : sum) x *= 1.5F;
  const Memory device_sum(machine, bytes_of(sum), 0);
  const Factor total = factor_at(device_sum, to, rank);
  const Memory judged(machine, std::vector<std::byte>(sizeof(cuda::Judged)), 0);
  auto* const at = reinterpret_cast<cuda::Judged*>(judged.data());
  cuda::judge_sum(set, total, at, {});
  const auto pair = [&](const Factor& sent) {
    return down ? FactorPair{sent, by} : FactorPair{by, sent};
  };
  cuda::low_rank_restore(set, m, pair(own), pair(total), at, {});
  cuda::keep_sum(set, total, at, device_kept.floats(), to, {});
  cpu.take();
  for (std::size_t i = 0; i < cpu.stripes(); ++i) cpu.restore(i);
  cpu.end();
  expect(same(device_data.bytes(what), data, dtype == DType::Float32), what, ": other data");
  expect(same(device_residual.bytes(what), bytes_of(residual), true), what, ": another residual");
  expect(same(device_kept.bytes(what), bytes_of(down ? p : q), true), what,
         ": other factors are kept");
}

inline void check_low_rank_kernels(const Machine& machine) {
  // Panels, bands and lanes that are whole and that are not, and more columns than go at once.
  const std::vector<MatrixCase> cases{
      {64, 64, 4},
      {100, 37, 3},
      {1, 7, 1},
      {300, 1100, 4},
      {5, 2055, 5},
      {513, 1031, 2},
      {128, 2048, 8},
      {260, 132, 20},
      {300, 520, 4, DType::Float32, 1},
      {130, 1028, 4, DType::BFloat16},
      {257, 90, 6, DType::Float16},
      {140, 256, 4, DType::Float16, 3},
  };
  for (const MatrixCase& one : cases) {
    for (const std::int64_t turn : {0, 1, 2, 3}) {
      for (const Numbers kind : kNumbers) check_low_rank_call(machine, one, kind, turn);
      check_low_rank_call(machine, one, Numbers::Plain, turn, true);
    }
  }
}

}  // namespace quoit::test
