#pragma once
// left * right^T of low-rank factors, into the matrix and its residual: warp_low_rank.h goes on.
#include "kernels/warp_low_rank.h"

namespace quoit {
namespace {

// ---- left * right^T: a warp has 128 columns of four rows.

template <class As>
struct Restore {
  using Args = cuda::RestoreArgs;
  using Stored = typename As::Stored;
  static constexpr unsigned kRows = 4;

  QUOIT_HOST_DEVICE static std::size_t tasks(const Args& args) {
    return runs_of(args.m.rows, kRows) * runs_of(args.m.cols, kStrip);
  }

  QUOIT_DEVICE static void run(const Warp& warp, const Args& args, std::size_t task) {
    const std::size_t strips = runs_of(args.m.cols, kStrip);
    warp.each([&](unsigned lane) {
      const std::size_t row = task / strips * kRows, col = task % strips * kStrip + lane * 4;
      const unsigned there = there_of(col, args.m.cols), rows = there_of(row, args.m.rows);
      if (there == 0) return;
      const bool aligned = rows_are_aligned<As>(args.m) && there == 4;
      Four product[kRows];
      if (args.m.residual && (args.judged->at[0] & cuda::Judged::kNotFinite) == 0) {
        multiply(args.given, row, col, product);
        keep_rest(args, aligned, row, col, rows, there, product);
      }
      multiply(args.sum, row, col, product);
      put(args.m, aligned, row, col, rows, there, product);
    });
  }

 private:
  QUOIT_DEVICE static void multiply(const FactorPair& pair, std::size_t row, std::size_t col,
                                    Four (&out)[kRows]) {
    QUOIT_ROLLED
    for (std::size_t c = 0; c < pair.left.columns; ++c) {
      const Four left = load_factor(pair.left.at + c * pair.left.stride + row);
      const Four right = load_factor(pair.right.at + c * pair.right.stride + col);
      QUOIT_UNROLL
      for (unsigned r = 0; r < kRows; ++r) {
        QUOIT_UNROLL
        for (unsigned i = 0; i < 4; ++i) {
          const float part = right.at[i] * left.at[r];
          out[r].at[i] = c == 0 ? part : out[r].at[i] + part;
        }
      }
    }
  }

  QUOIT_DEVICE static void keep_rest(const Args& args, bool aligned, std::size_t row,
                                     std::size_t col, unsigned rows, unsigned there,
                                     const Four (&sent)[kRows]) {
    QUOIT_UNROLL
    for (unsigned r = 0; r < kRows; ++r) {
      if (r >= rows) break;
      const std::size_t at = (row + r) * args.m.cols + col;
      float* const residual = args.m.residual + at;
      const auto* const data = reinterpret_cast<const Element<Stored>*>(args.m.data) + at;
      if (aligned) {
        const auto in = *reinterpret_cast<const Pack<Stored, 4>*>(data);
        Four carried = load_factor(residual);
        QUOIT_UNROLL
        for (unsigned i = 0; i < 4; ++i)
          carried.at[i] = rest(args, As::widen(in.at[i]), carried.at[i], sent[r].at[i]);
        *reinterpret_cast<Four*>(residual) = carried;
        continue;
      }
      QUOIT_UNROLL
      for (unsigned i = 0; i < 4; ++i)
        if (i < there)
          residual[i] = rest(args, As::widen(data[i].at[0]), residual[i], sent[r].at[i]);
    }
  }

  QUOIT_DEVICE static float rest(const Args& args, float in, float carried, float sent) {
    return rest_of(given(in, args.m.before, carried, args.m.unit), sent, args.per_unit, carried);
  }

  QUOIT_DEVICE static void put(const cuda::LowRankMatrix& m, bool aligned, std::size_t row,
                               std::size_t col, unsigned rows, unsigned there,
                               const Four (&from)[kRows]) {
    QUOIT_UNROLL
    for (unsigned r = 0; r < kRows; ++r) {
      if (r >= rows) break;
      auto* const data = reinterpret_cast<Element<Stored>*>(m.data) + (row + r) * m.cols + col;
      Pack<Stored, 4> out;
      QUOIT_UNROLL
      for (unsigned i = 0; i < 4; ++i) out.at[i] = As::narrow(one_nan(from[r].at[i]));
      if (aligned) {
        *reinterpret_cast<Pack<Stored, 4>*>(data) = out;
        continue;
      }
      QUOIT_UNROLL
      for (unsigned i = 0; i < 4; ++i)
        if (i < there) data[i].at[0] = out.at[i];
    }
  }
};

}  // namespace
}  // namespace quoit
