#pragma once
// What compress/low_rank.cpp asks of the kernels. Matrices are row-major; factors have columns,
// each padded with zeros to a multiple of kFactorPad numbers. See cast.h for why nothing here has
// external linkage.
#include <cstddef>
#include <cstdint>

#include "kernels/device.h"

namespace quoit {

struct Source;  // codec_kernels.h

inline constexpr std::size_t kFactorPad = 8;

QUOIT_HOST_DEVICE static constexpr std::size_t padded_to_factor(std::size_t count) {
  return (count + kFactorPad - 1) / kFactorPad * kFactorPad;
}

// How far apart long columns lie best: not all in the same few sets of the L1 cache, as columns of
// a power of two would, along with the rows of their matrix.
static constexpr std::size_t factor_stride(std::size_t rows) {
  constexpr std::size_t kLine = 16, kLong = 1024;
  return rows < kLong ? padded_to_factor(rows) : ((rows + kLine - 1) / kLine | 1) * kLine;
}

struct Factor {
  float* at;           // the first column
  std::size_t stride;  // between columns: a multiple of kFactorPad
  std::size_t columns;
};

// left * right^T
struct FactorPair {
  Factor left;
  Factor right;
};

// The numbers of a Source are rows of `cols` each.
struct LowRankKernels {
  // into = p * right
  void (*times)(const Source& p, std::size_t cols, const Factor& right, const Factor& into);
  // into += p^T * left; of one band of rows (low_rank_order.h), or the next of its groups.
  void (*transposed_times)(const Source& p, std::size_t cols, const Factor& left,
                           const Factor& into);
  // The residual becomes that of p - given, but where that is not finite; out, which may be
  // p.in, becomes the sum. Without a residual only `out` is written.
  void (*restore)(const Source& p, std::size_t cols, const FactorPair& given, const FactorPair& sum,
                  float* out);

  // ---- Of `rows` rows of a factor, a multiple of kFactorPad.

  // gram[i * columns + j] = the dot product of columns i and j, for i <= j.
  void (*gram)(const Factor& a, std::size_t rows, double* gram);
  // a = a * R^-1; R: upper triangle, rows of `columns`, with 1 / R_jj on its diagonal. scratch:
  // kSolveRows doubles for each column.
  void (*solve)(const Factor& a, std::size_t rows, const double* triangle, double* scratch);
  // a[i] = a[i] * by + a random number up to `noise`, that depends on i and the key
  void (*blur)(float* a, std::size_t count, double by, float noise, std::uint32_t key);
};

inline constexpr std::size_t kSolveRows = 64;

}  // namespace quoit
