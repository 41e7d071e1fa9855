#pragma once
// What a warp does with a low-rank matrix: the twin of low_rank_loops.h. A Step has
//   Args                                 what it is told
//   static std::size_t tasks(args)       how many there are, for a warp each
//   static void run(warp, args, task)
// Lanes take four neighbours at a time, and as many columns of factors as kColumns says; sums that
// several warps make go through the scratch memory, in the order of low_rank_order.h. Include
// device_cuda.h (or the tests' device_plain.h) first.
#include "kernels/cuda_low_rank.h"
#include "kernels/low_rank_order.h"
#include "kernels/row_memory.h"

namespace quoit {
namespace {

using Four = Pack<float, 4>;

QUOIT_HOST_DEVICE constexpr std::size_t runs_of(std::size_t count, std::size_t length) {
  return (count + length - 1) / length;
}

QUOIT_DEVICE inline Four load_factor(const float* at) { return *reinterpret_cast<const Four*>(at); }

// How many of four numbers are there, of which `left` are, or fewer than none.
QUOIT_DEVICE inline unsigned there_of(std::size_t at, std::size_t end) {
  return at >= end ? 0 : end - at < 4 ? static_cast<unsigned>(end - at) : 4;
}

// Whether rows can be read by four neighbours at a time, of which the first is one of four.
template <class As>
QUOIT_DEVICE bool rows_are_aligned(const cuda::LowRankMatrix& m) {
  return m.cols % 4 == 0 && is_aligned(m.data, 4 * sizeof(typename As::Stored)) &&
         is_aligned(m.residual, 16);
}

// Of kCount fours, `stride` numbers apart, the first `fours`, of each the first `there`: what the
// rank gives. Zeros beyond.
template <class As, unsigned kCount>
QUOIT_DEVICE void load_given(const cuda::LowRankMatrix& m, bool aligned, std::size_t at,
                             std::size_t stride, unsigned fours, unsigned there,
                             Four (&p)[kCount]) {
  using Stored = typename As::Stored;
  const auto* const data = reinterpret_cast<const Element<Stored>*>(m.data) + at;
  if (aligned && fours == kCount && there == 4) {
    Pack<Stored, 4> in[kCount];
    QUOIT_UNROLL
    for (unsigned n = 0; n < kCount; ++n)
      in[n] = *reinterpret_cast<const Pack<Stored, 4>*>(data + n * stride);
    Four carried[kCount]{};
    QUOIT_UNROLL
    for (unsigned n = 0; n < kCount; ++n)
      if (m.residual) carried[n] = load_factor(m.residual + at + n * stride);
    QUOIT_UNROLL
    for (unsigned n = 0; n < kCount; ++n) {
      QUOIT_UNROLL
      for (unsigned i = 0; i < 4; ++i) {
        const float x = As::widen(in[n].at[i]);
        p[n].at[i] = m.residual ? given(x, m.before, carried[n].at[i], m.unit) : given(x, m.before);
      }
    }
    return;
  }
  QUOIT_UNROLL
  for (unsigned n = 0; n < kCount; ++n) {
    QUOIT_UNROLL
    for (unsigned i = 0; i < 4; ++i) {
      p[n].at[i] = 0;
      if (n >= fours || i >= there) continue;
      const float x = As::widen(data[n * stride + i].at[0]);
      p[n].at[i] = m.residual ? given(x, m.before, m.residual[at + n * stride + i], m.unit)
                              : given(x, m.before);
    }
  }
}

template <unsigned kColumns>
struct Sums {
  float at[kColumns][4];
};

template <unsigned kColumns>
QUOIT_DEVICE void clear(Sums<kColumns>& sums) {
  QUOIT_UNROLL
  for (unsigned c = 0; c < kColumns; ++c) {
    QUOIT_UNROLL
    for (unsigned i = 0; i < 4; ++i) sums.at[c][i] = 0;
  }
}

// What a warp has of a product: a strip of some columns of the matrix, a block of some rows, and
// kColumns columns of the factor.
template <unsigned kColumns>
struct Share {
  QUOIT_HOST_DEVICE static std::size_t count(const cuda::ProductArgs& args, std::size_t cols,
                                             std::size_t rows) {
    return runs_of(args.m.cols, cols) * runs_of(args.m.rows, rows) *
           runs_of(args.by.columns, kColumns);
  }

  QUOIT_DEVICE Share(const cuda::ProductArgs& args, std::size_t cols, std::size_t task)
      : strips(runs_of(args.m.cols, cols)), strip(task % strips) {
    const std::size_t groups = runs_of(args.by.columns, kColumns);
    column = task / strips % groups * kColumns;
    block = task / strips / groups;
  }

  std::size_t strips;  // beside each other
  std::size_t strip;
  std::size_t block;
  std::size_t column;  // of the factor, the first
};

// Eight lanes, of which two neighbours have four each, to one number. Pairwise: what lies four
// apart, in the two, then two, then neighbours.
template <class T>
QUOIT_DEVICE void add_lanes(const Warp& warp, Warp::Each<T> (&half)[4], Warp::Each<T>& sum) {
  QUOIT_UNROLL
  for (unsigned i = 0; i < 4; ++i) {
    const auto other = warp.across(half[i], 1);
    warp.each([&](unsigned lane) { half[i][lane] += other[lane]; });
  }
  warp.each([&](unsigned lane) {
    const T even = half[0][lane] + half[2][lane], odd = half[1][lane] + half[3][lane];
    sum[lane] = even + odd;
  });
}

// ---- m * right: a warp has sixteen rows of a panel, two lanes each.

inline constexpr std::size_t kAcross = 16;

template <class As, unsigned kColumns>
struct Times {
  using Args = cuda::ProductArgs;

  QUOIT_HOST_DEVICE static std::size_t tasks(const Args& args) {
    return Share<kColumns>::count(args, kPanelCols, kAcross);
  }

  QUOIT_DEVICE static void run(const Warp& warp, const Args& args, std::size_t task) {
    const Share<kColumns> share(args, kPanelCols, task);
    const std::size_t column = share.column, row = share.block * kAcross;
    const std::size_t begin = share.strip * kPanelCols;
    const std::size_t left = args.m.cols - begin, count = left < kPanelCols ? left : kPanelCols;
    const std::size_t whole = count / kFactorPad * kFactorPad;
    Warp::Each<Sums<kColumns>> sums;
    warp.each([&](unsigned lane) { clear(sums[lane]); });
    warp.each([&](unsigned lane) {
      constexpr std::size_t kTogether = 4 * kFactorPad;
      std::size_t k = begin;
      for (; k + kTogether <= begin + whole; k += kTogether)
        add<4>(args, column, row, k, args.m.cols, lane, sums[lane]);
      for (; k < begin + whole; k += kFactorPad)
        add<1>(args, column, row, k, args.m.cols, lane, sums[lane]);
    });
    put(warp, args, column, row, share.strip, sums);
    if (begin + kPanelCols < args.m.cols) return;
    warp.each([&](unsigned lane) {
      clear(sums[lane]);
      if (whole < count) add<1>(args, column, row, begin + whole, args.m.cols, lane, sums[lane]);
    });
    put(warp, args, column, row, share.strips, sums);
  }

 private:
  // kSteps times eight columns of the matrix, from k on.
  template <unsigned kSteps>
  QUOIT_DEVICE static void add(const Args& args, std::size_t column, std::size_t first_row,
                               std::size_t k, std::size_t end, unsigned lane,
                               Sums<kColumns>& sums) {
    const std::size_t row = first_row + lane / 2, at = k + lane % 2 * 4;
    Four p[kSteps];
    const unsigned fours = row < args.m.rows ? kSteps : 0;
    load_given<As>(args.m, rows_are_aligned<As>(args.m), row * args.m.cols + at, kFactorPad, fours,
                   there_of(at, end), p);
    QUOIT_UNROLL
    for (unsigned c = 0; c < kColumns; ++c) {
      if (column + c >= args.by.columns) break;
      const float* const by = args.by.at + (column + c) * args.by.stride + at;
      QUOIT_UNROLL
      for (unsigned n = 0; n < kSteps; ++n) {
        const Four y = load_factor(by + n * kFactorPad);
        QUOIT_UNROLL
        for (unsigned i = 0; i < 4; ++i) sums.at[c][i] += p[n].at[i] * y.at[i];
      }
    }
  }

  QUOIT_DEVICE static void put(const Warp& warp, const Args& args, std::size_t column,
                               std::size_t first_row, std::size_t piece,
                               const Warp::Each<Sums<kColumns>>& sums) {
    QUOIT_UNROLL
    for (unsigned c = 0; c < kColumns; ++c) {
      Warp::Each<float> half[4];
      warp.each([&](unsigned lane) {
        QUOIT_UNROLL
        for (unsigned i = 0; i < 4; ++i) half[i][lane] = sums[lane].at[c][i];
      });
      Warp::Each<float> sum;
      add_lanes(warp, half, sum);
      if (column + c >= args.by.columns) break;
      float* const to = args.scratch + (piece * args.by.columns + column + c) * args.m.rows;
      warp.each([&](unsigned lane) {
        const std::size_t row = first_row + lane / 2;
        if (lane % 2 == 0 && row < args.m.rows) to[row] = sum[lane];
      });
    }
  }
};

// The panels, in order; a lane has a row.
struct FoldAcross {
  using Args = cuda::ProductArgs;

  QUOIT_HOST_DEVICE static std::size_t tasks(const Args& args) {
    return runs_of(args.m.rows, 32) * args.by.columns;
  }

  QUOIT_DEVICE static void run(const Warp& warp, const Args& args, std::size_t task) {
    const std::size_t column = task % args.by.columns;
    const std::size_t pieces = runs_of(args.m.cols, kPanelCols) + 1;
    warp.each([&](unsigned lane) {
      const std::size_t row = task / args.by.columns * 32 + lane;
      if (row >= args.m.rows) return;
      float sum = 0;
      for (std::size_t piece = 0; piece < pieces; ++piece)
        sum += args.scratch[(piece * args.by.columns + column) * args.m.rows + row];
      args.into.at[column * args.into.stride + row] = sum;
    });
  }
};

// ---- m^T * left: a warp has 128 columns of a band.

inline constexpr std::size_t kStrip = 128;

template <class As, unsigned kColumns>
struct TimesDown {
  using Args = cuda::ProductArgs;

  QUOIT_HOST_DEVICE static std::size_t tasks(const Args& args) {
    return Share<kColumns>::count(args, kStrip, kBandRows);
  }

  QUOIT_DEVICE static void run(const Warp& warp, const Args& args, std::size_t task) {
    const Share<kColumns> share(args, kStrip, task);
    const std::size_t column = share.column, strip = share.strip * kStrip;
    const std::size_t band = share.block, begin = band * kBandRows;
    const std::size_t end = begin + kBandRows < args.m.rows ? begin + kBandRows : args.m.rows;
    const std::size_t padded = padded_to_factor(args.m.cols);
    warp.each([&](unsigned lane) {
      const std::size_t col = strip + lane * 4;
      if (col >= padded) return;
      const bool aligned = rows_are_aligned<As>(args.m);
      const unsigned there = there_of(col, args.m.cols);
      Sums<kColumns> total;
      clear(total);
      QUOIT_ROLLED
      for (std::size_t row = begin; row < end; row += kRowsDown) {
        Four p[kRowsDown];
        load_given<As>(args.m, aligned, row * args.m.cols + col, args.m.cols, there_of(row, end),
                       there, p);
        add_group(args, column, row, there_of(row, end), p, total);
      }
      QUOIT_UNROLL
      for (unsigned c = 0; c < kColumns; ++c) {
        if (column + c >= args.by.columns) break;
        Four out;
        QUOIT_UNROLL
        for (unsigned i = 0; i < 4; ++i) out.at[i] = total.at[c][i];
        float* const to = args.scratch + (band * args.by.columns + column + c) * padded + col;
        *reinterpret_cast<Four*>(to) = out;
      }
    });
  }

 private:
  QUOIT_DEVICE static void add_group(const Args& args, std::size_t column, std::size_t row,
                                     unsigned rows, const Four (&p)[kRowsDown],
                                     Sums<kColumns>& total) {
    QUOIT_UNROLL
    for (unsigned c = 0; c < kColumns; ++c) {
      if (column + c >= args.by.columns) break;
      const Four by = load_factor(args.by.at + (column + c) * args.by.stride + row);
      QUOIT_UNROLL
      for (unsigned i = 0; i < 4; ++i) {
        float sum = 0;
        QUOIT_UNROLL
        for (unsigned r = 0; r < kRowsDown; ++r)
          if (r < rows) sum += p[r].at[i] * by.at[r];
        total.at[c][i] += sum;
      }
    }
  }
};

// The bands, in order; a lane has four neighbours.
struct FoldDown {
  using Args = cuda::ProductArgs;

  QUOIT_HOST_DEVICE static std::size_t tasks(const Args& args) {
    return runs_of(args.m.cols, kStrip) * args.by.columns;
  }

  QUOIT_DEVICE static void run(const Warp& warp, const Args& args, std::size_t task) {
    const std::size_t column = task % args.by.columns;
    const std::size_t padded = padded_to_factor(args.m.cols);
    const std::size_t bands = runs_of(args.m.rows, kBandRows);
    warp.each([&](unsigned lane) {
      const std::size_t col = task / args.by.columns * kStrip + lane * 4;
      if (col >= padded) return;
      Four sum{};
      for (std::size_t band = 0; band < bands; ++band) {
        const Four part =
            load_factor(args.scratch + (band * args.by.columns + column) * padded + col);
        QUOIT_UNROLL
        for (unsigned i = 0; i < 4; ++i) sum.at[i] += part.at[i];
      }
      *reinterpret_cast<Four*>(args.into.at + column * args.into.stride + col) = sum;
    });
  }
};

}  // namespace
}  // namespace quoit
