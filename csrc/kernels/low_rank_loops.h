#pragma once
// Products of a matrix with thin factors, in panels that stay in the L1 cache. The order of
// additions is that of low_rank_order.h. Internal linkage: see reduce_loops.h.
#include "kernels/basis_loops.h"
#include "kernels/source_loops.h"

namespace quoit {
namespace {

// Compilers make of it what the CPU has: one register, two or four. Never passed by value: how
// depends on the instruction set.
typedef float Lanes __attribute__((vector_size(kFactorPad * sizeof(float))));
// The same at any address. By copying bytes, compilers would go by way of memory.
typedef Lanes LooseLanes __attribute__((aligned(alignof(float)), may_alias));

inline void load_lanes(const float* from, Lanes& lanes) {
  lanes = *reinterpret_cast<const LooseLanes*>(from);
}
inline void store_lanes(const Lanes& lanes, float* to) {
  *reinterpret_cast<LooseLanes*>(to) = lanes;
}

// Rows of a matrix, and columns of factors, that are worked on together: p * right.
constexpr std::size_t kRowsAcross = 2;
constexpr std::size_t kTogether = 4;

// Calls step.template operator()<n>(i) for runs of n of `count`: kMost each, then what is left.
template <std::size_t kMost, class Step>
void for_runs(std::size_t count, const Step& step, std::size_t begin = 0) {
  for (; begin + kMost <= count; begin += kMost) step.template operator()<kMost>(begin);
  if constexpr (kMost > 1) {
    if (begin < count) for_runs<kMost - 1>(count, step, begin);
  }
}

// Where numbers come from. From the matrix itself: as a Source says; kept in a panel if there are
// more columns of factors than one run of them.
template <bool kCarried, bool kKeep>
struct FromMatrix {
  const float* in;
  const float* carried;
  std::size_t stride;  // of rows
  float scale;
  float unit;
  float* panel;

  void load(std::size_t row, std::size_t k, Lanes& x) const {
    load_lanes(in + row * stride + k, x);
    x *= scale;
    if constexpr (kCarried) {
      Lanes y;
      load_lanes(carried + row * stride + k, y);
      x += y * unit;
    }
    if constexpr (kKeep) store_lanes(x, panel + row * kPanelCols + k);
  }
};

struct FromPanel {
  const float* panel;

  void load(std::size_t row, std::size_t k, Lanes& x) const {
    load_lanes(panel + row * kPanelCols + k, x);
  }
};

// Rows of a matrix, kPanelCols columns at a time: step.template operator()<n>(c, count, from) for
// every run of n columns of factors.
template <std::size_t kRows>
struct Panel {
  alignas(64) float at[kRows * kPanelCols];

  template <bool kCarried, class Step>
  void whole(const Source& p, std::size_t cols, std::size_t count, std::size_t columns,
             const Step& step) {
    const auto first = [&]<bool kKeep>() {
      const FromMatrix<kCarried, kKeep> from{p.in, p.carried, cols, p.scale, p.unit, at};
      const std::size_t now = columns < kTogether ? columns : kTogether;
      for_runs<kTogether>(now, [&]<std::size_t kCols>(std::size_t c) {
        step.template operator()<kCols>(c, count, from);
      });
    };
    if (columns > kTogether) {
      first.template operator()<true>();
    } else {
      first.template operator()<false>();
    }
    rest(count, columns, kTogether, step);
  }

  template <class Step>
  void rest(std::size_t count, std::size_t columns, std::size_t begin, const Step& step) {
    const FromPanel from{at};
    for_runs<kTogether>(
        columns,
        [&]<std::size_t kCols>(std::size_t c) { step.template operator()<kCols>(c, count, from); },
        begin);
  }

  // The columns beyond whole Lanes, filled up with zeros.
  template <class Step>
  void ragged(const Source& p, std::size_t cols, std::size_t count, std::size_t columns,
              const Step& step) {
    for (std::size_t r = 0; r < kRows; ++r) {
      float* const row = at + r * kPanelCols;
      for (std::size_t k = count; k < kFactorPad; ++k) row[k] = 0;
      load_source(part_of(p, r * cols, count), row);
    }
    rest(kFactorPad, columns, 0, step);
  }
};

// Calls step.template operator()<rows, n>(row, column, c, count, from) for all of p.
template <std::size_t kMost, class Step>
void for_panels(const Source& p, std::size_t cols, std::size_t columns, const Step& step) {
  for_runs<kMost>(p.count / cols, [&]<std::size_t kRows>(std::size_t row) {
    Panel<kRows> panel;
    for (std::size_t col = 0; col < cols; col += kPanelCols) {
      const std::size_t count = cols - col < kPanelCols ? cols - col : kPanelCols;
      const std::size_t whole = count / kFactorPad * kFactorPad;
      const Source here = part_of(p, row * cols + col, p.count);
      const auto at = [&](std::size_t first) {
        return [&, first]<std::size_t kCols>(std::size_t c, std::size_t length, const auto& from) {
          step.template operator()<kRows, kCols>(row, col + first, c, length, from);
        };
      };
      if (p.carried) {
        panel.template whole<true>(here, cols, whole, columns, at(0));
      } else {
        panel.template whole<false>(here, cols, whole, columns, at(0));
      }
      if (whole < count)
        panel.ragged(part_of(here, whole, p.count), cols, count - whole, columns, at(whole));
    }
  });
}

// `kCols` columns of a factor, from `row` on.
inline Factor block_of(const Factor& factor, std::size_t row, std::size_t first,
                       std::size_t count) {
  return {factor.at + first * factor.stride + row, factor.stride, count};
}

// ---- p * right

float sum_of(const Lanes& lanes) {
  float x[kFactorPad];
  store_lanes(lanes, x);
  for (std::size_t half = kFactorPad / 2; half > 0; half /= 2) {
    for (std::size_t l = 0; l < half; ++l) x[l] += x[l + half];
  }
  return x[0];
}

// into[r][c] += row r times column c.
template <std::size_t kRows, std::size_t kCols, class From>
void add_dots(const From& from, const Factor& right, std::size_t count, const Factor& into) {
  Lanes sums[kRows][kCols] = {};
  for (std::size_t k = 0; k < count; k += kFactorPad) {
    Lanes x[kRows];
    for (std::size_t r = 0; r < kRows; ++r) from.load(r, k, x[r]);
    for (std::size_t c = 0; c < kCols; ++c) {
      Lanes y;
      load_lanes(right.at + c * right.stride + k, y);
      for (std::size_t r = 0; r < kRows; ++r) sums[r][c] += x[r] * y;
    }
  }
  for (std::size_t c = 0; c < kCols; ++c)
    for (std::size_t r = 0; r < kRows; ++r) into.at[c * into.stride + r] += sum_of(sums[r][c]);
}

void low_rank_times(const Source& p, std::size_t cols, const Factor& right, const Factor& into) {
  for (std::size_t c = 0; c < into.columns; ++c)
    __builtin_memset(into.at + c * into.stride, 0, p.count / cols * sizeof(float));
  for_panels<kRowsAcross>(
      p, cols, right.columns,
      [&]<std::size_t kRows, std::size_t kCols>(std::size_t row, std::size_t col, std::size_t c,
                                                std::size_t count, const auto& from) {
        add_dots<kRows, kCols>(from, block_of(right, col, c, kCols), count,
                               block_of(into, row, c, kCols));
      });
}

// ---- p^T * left

// into[c] += the rows, each times its number in column c.
template <std::size_t kRows, std::size_t kCols, class From>
void add_rows(const From& from, const Factor& left, std::size_t count, const Factor& into) {
  float by[kRows][kCols];
  for (std::size_t r = 0; r < kRows; ++r)
    for (std::size_t c = 0; c < kCols; ++c) by[r][c] = left.at[c * left.stride + r];
  for_runs<2>(count / kFactorPad, [&]<std::size_t kWide>(std::size_t at) {
    const std::size_t k = at * kFactorPad;
    Lanes sums[kWide][kCols] = {};
    for (std::size_t r = 0; r < kRows; ++r) {
      Lanes x[kWide];
      for (std::size_t w = 0; w < kWide; ++w) from.load(r, k + w * kFactorPad, x[w]);
      for (std::size_t c = 0; c < kCols; ++c)
        for (std::size_t w = 0; w < kWide; ++w) sums[w][c] += x[w] * by[r][c];
    }
    for (std::size_t c = 0; c < kCols; ++c)
      for (std::size_t w = 0; w < kWide; ++w) {
        float* const to = into.at + c * into.stride + k + w * kFactorPad;
        Lanes total;
        load_lanes(to, total);
        total += sums[w][c];
        store_lanes(total, to);
      }
  });
}

void low_rank_transposed_times(const Source& p, std::size_t cols, const Factor& left,
                               const Factor& into) {
  for_panels<kRowsDown>(
      p, cols, left.columns,
      [&]<std::size_t kRows, std::size_t kCols>(std::size_t row, std::size_t col, std::size_t c,
                                                std::size_t count, const auto& from) {
        add_rows<kRows, kCols>(from, block_of(left, row, c, kCols), count,
                               block_of(into, col, c, kCols));
      });
}

// ---- left * right^T

// out[r] (+)= the sum over columns of left[r][c] * right[c]
template <bool kFirst, std::size_t kRows, std::size_t kCols>
void add_outer(const Factor& left, const Factor& right, std::size_t count, float* out) {
  float by[kRows][kCols];
  for (std::size_t r = 0; r < kRows; ++r)
    for (std::size_t c = 0; c < kCols; ++c) by[r][c] = left.at[c * left.stride + r];
  for (std::size_t k = 0; k < count; k += kFactorPad) {
    Lanes sums[kRows];
    for (std::size_t c = 0; c < kCols; ++c) {
      Lanes y;
      load_lanes(right.at + c * right.stride + k, y);
      for (std::size_t r = 0; r < kRows; ++r) {
        if (kFirst && c == 0) {
          sums[r] = y * by[r][c];
        } else {
          if (c == 0) load_lanes(out + r * kPanelCols + k, sums[r]);
          sums[r] += y * by[r][c];
        }
      }
    }
    for (std::size_t r = 0; r < kRows; ++r) store_lanes(sums[r], out + r * kPanelCols + k);
  }
}

// A panel of the product.
template <std::size_t kRows>
void multiply_out(const FactorPair& pair, std::size_t row, std::size_t col, std::size_t count,
                  float* out) {
  for_runs<kTogether>(pair.left.columns, [&]<std::size_t kCols>(std::size_t c) {
    const Factor left{pair.left.at + c * pair.left.stride + row, pair.left.stride, kCols};
    const Factor right{pair.right.at + c * pair.right.stride + col, pair.right.stride, kCols};
    if (c == 0) {
      add_outer<true, kRows, kCols>(left, right, count, out);
    } else {
      add_outer<false, kRows, kCols>(left, right, count, out);
    }
  });
}

void keep_rest(const Source& p, const float* __restrict sent) {
  const float* const __restrict in = p.in, * const carried = p.carried;
  float* const residual = p.residual;
  const float scale = p.scale, unit = p.unit, per_unit = p.per_unit;
  for (std::size_t k = 0; k < p.count; ++k) {
    const float p_k = given(in[k], scale, carried[k], unit);
    residual[k] = rest_of(p_k, sent[k], per_unit, carried[k]);
  }
}

void put_numbers(const float* __restrict from, float* __restrict out, std::size_t count) {
  for (std::size_t k = 0; k < count; ++k) out[k] = one_nan(from[k]);
}

void low_rank_restore(const Source& p, std::size_t cols, const FactorPair& given,
                      const FactorPair& sum, float* out) {
  constexpr std::size_t kRows = 2;
  alignas(64) float product[kRows][kPanelCols];
  for_runs<kRows>(p.count / cols, [&]<std::size_t kNow>(std::size_t row) {
    for (std::size_t col = 0; col < cols; col += kPanelCols) {
      const std::size_t count = cols - col < kPanelCols ? cols - col : kPanelCols;
      const std::size_t padded = padded_to_factor(count);
      if (p.residual) {
        multiply_out<kNow>(given, row, col, padded, product[0]);
        for (std::size_t r = 0; r < kNow; ++r)
          keep_rest(part_of(p, (row + r) * cols + col, count), product[r]);
      }
      multiply_out<kNow>(sum, row, col, padded, product[0]);
      for (std::size_t r = 0; r < kNow; ++r)
        put_numbers(product[r], out + (row + r) * cols + col, count);
    }
  });
}

constexpr LowRankKernels kLowRankKernels{
    .times = low_rank_times,
    .transposed_times = low_rank_transposed_times,
    .restore = low_rank_restore,
    .gram = low_rank_gram,
    .solve = low_rank_solve,
    .blur = low_rank_blur,
};

}  // namespace
}  // namespace quoit
