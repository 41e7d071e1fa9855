#pragma once
// What a warp does with a factor: the twin of basis_loops.h and of make_orthonormal() in
// compress/low_rank.cpp. Steps are as in warp_low_rank.h.
#include "kernels/warp_restore.h"

namespace quoit {
namespace {

QUOIT_HOST_DEVICE inline std::size_t gram_chunks(const cuda::BasisArgs& args) {
  return runs_of(padded_to_factor(args.rows), kGramRows);
}

// Of columns i and j, over all rows.
QUOIT_DEVICE inline double gram_of(const cuda::BasisArgs& args, std::size_t i, std::size_t j) {
  const std::size_t n = args.a.columns, chunks = gram_chunks(args);
  double sum = 0;
  for (std::size_t chunk = 0; chunk < chunks; ++chunk) sum += args.parts[(chunk * n + i) * n + j];
  return sum;
}

// Dot products of columns, over kGramRows rows: two lanes for each pair.
struct Gram {
  using Args = cuda::BasisArgs;
  static constexpr std::size_t kPairs = 16;

  QUOIT_HOST_DEVICE static std::size_t tasks(const Args& args) {
    return gram_chunks(args) * runs_of(args.a.columns * (args.a.columns + 1) / 2, kPairs);
  }

  QUOIT_DEVICE static void run(const Warp& warp, const Args& args, std::size_t task) {
    const std::size_t n = args.a.columns, pairs = n * (n + 1) / 2;
    const std::size_t chunks = gram_chunks(args), chunk = task % chunks;
    const std::size_t begin = chunk * kGramRows, left = padded_to_factor(args.rows) - begin;
    const std::size_t count = left < kGramRows ? left : kGramRows;
    Warp::Each<double> half[4];
    Warp::Each<std::size_t> place;
    warp.each([&](unsigned lane) {
      std::size_t pair = task / chunks * kPairs + lane / 2, i = 0;
      const bool there = pair < pairs;
      for (; there && pair >= n - i; ++i) pair -= n - i;
      place[lane] = there ? i * n + i + pair : n * n;
      double sums[4] = {};
      if (there) {
        const float* const a = args.a.at + i * args.a.stride + begin + lane % 2 * 4;
        const float* const b = a + pair * args.a.stride;
        for (std::size_t k = 0; k < count; k += kFactorPad) {
          const Four x = load_factor(a + k), y = load_factor(b + k);
          QUOIT_UNROLL
          for (unsigned l = 0; l < 4; ++l)
            sums[l] += static_cast<double>(x.at[l]) * static_cast<double>(y.at[l]);
        }
      }
      QUOIT_UNROLL
      for (unsigned l = 0; l < 4; ++l) half[l][lane] = sums[l];
    });
    Warp::Each<double> sum;
    add_lanes(warp, half, sum);
    warp.each([&](unsigned lane) {
      if (lane % 2 == 0 && place[lane] < n * n) args.parts[chunk * n * n + place[lane]] = sum[lane];
    });
  }
};

// Columns of any length to about length one, no two of them alike: after their Gram matrix.
struct Blur {
  using Args = cuda::BasisArgs;
  static constexpr std::size_t kRows = 256;

  QUOIT_HOST_DEVICE static std::size_t tasks(const Args& args) {
    return runs_of(args.rows, kRows) * args.a.columns;
  }

  QUOIT_DEVICE static void run(const Warp& warp, const Args& args, std::size_t task) {
    const std::size_t column = task % args.a.columns, begin = task / args.a.columns * kRows;
    const double square = gram_of(args, column, column);
    const bool usable = square > 0 && square < __builtin_inf();
    const double by = usable ? __builtin_sqrt(static_cast<double>(args.rows) / square) : 0;
    const auto key = static_cast<std::uint32_t>(mix_64(args.key + column));
    warp.each([&](unsigned lane) {
      for (std::size_t i = begin + lane; i < args.rows && i < begin + kRows; i += 32) {
        float& x = args.a.at[column * args.a.stride + i];
        x = blurred(usable ? x : 0, by, usable ? kBlur : 1, key, static_cast<std::uint32_t>(i));
      }
    });
  }
};

// The Gram matrix to the triangle that solve() wants. One warp: a rank is small.
struct Factorise {
  using Args = cuda::BasisArgs;

  QUOIT_HOST_DEVICE static std::size_t tasks(const Args&) { return 1; }

  QUOIT_DEVICE static void run(const Warp& warp, const Args& args, std::size_t) {
    const std::size_t n = args.a.columns;
    double* const gram = args.triangle;
    warp.each([&](unsigned lane) {
      for (std::size_t p = lane; p < n * n; p += 32)
        if (p / n <= p % n) gram[p] = gram_of(args, p / n, p % n);
    });
    warp.sync();
    for (std::size_t i = 0; i < n; ++i) {
      const double length = gram[i * n + i];
      double pivot = length * (1 + args.shift);
      for (std::size_t k = 0; k < i; ++k) pivot -= gram[k * n + i] * gram[k * n + i];
      const double inverse = 1 / __builtin_sqrt(pivot_of(pivot, length));
      warp.sync();
      warp.each([&](unsigned lane) {
        for (std::size_t j = i + 1 + lane; j < n; j += 32) {
          double value = gram[i * n + j];
          for (std::size_t k = 0; k < i; ++k) value -= gram[k * n + i] * gram[k * n + j];
          gram[i * n + j] = value * inverse;
        }
        if (lane == 0) gram[i * n + i] = inverse;
      });
      warp.sync();
    }
  }
};

// A lane has a row.
struct Solve {
  using Args = cuda::BasisArgs;

  QUOIT_HOST_DEVICE static std::size_t tasks(const Args& args) {
    return runs_of(padded_to_factor(args.rows), 32);
  }

  QUOIT_DEVICE static void run(const Warp& warp, const Args& args, std::size_t task) {
    const std::size_t n = args.a.columns, padded = padded_to_factor(args.rows);
    warp.each([&](unsigned lane) {
      const std::size_t row = task * 32 + lane;
      if (row >= padded) return;
      for (std::size_t j = 0; j < n; ++j) {
        float& x = args.a.at[j * args.a.stride + row];
        double now = x;
        for (std::size_t before = 0; before < j; ++before)
          now -= args.triangle[before * n + j] * args.columns[before * padded + row];
        now *= args.triangle[j * n + j];
        args.columns[j * padded + row] = now;
        x = static_cast<float>(now);
      }
    });
  }
};

// ---- Sums over ranks.

// A part for each warp.
struct Judge {
  using Args = cuda::SumArgs;

  QUOIT_HOST_DEVICE static std::size_t tasks(const Args&) { return cuda::Judged::kParts; }

  QUOIT_DEVICE static void run(const Warp& warp, const Args& args, std::size_t task) {
    const std::size_t count = args.sum.stride * args.sum.columns;
    Warp::Each<bool> bad, some;
    warp.each([&](unsigned lane) {
      bad[lane] = some[lane] = false;
      constexpr std::size_t kStep = 4 * 32 * cuda::Judged::kParts;
      for (std::size_t i = 4 * (32 * task + lane); i < count; i += kStep) {
        const Four x = load_factor(args.sum.at + i);
        QUOIT_UNROLL
        for (unsigned k = 0; k < 4; ++k) {
          bad[lane] |= magnitude_of(x.at[k]) >= kInfinite;
          some[lane] |= !(x.at[k] == 0);
        }
      }
    });
    const std::uint32_t any_bad = warp.ballot(bad), any = warp.ballot(some);
    warp.each([&](unsigned lane) {
      if (lane != 0) return;
      args.judged->at[1 + task] =
          (any_bad != 0 ? cuda::Judged::kNotFinite : 0) | (any != 0 ? cuda::Judged::kNotZero : 0);
    });
  }
};

struct JudgeAll {
  using Args = cuda::SumArgs;

  QUOIT_HOST_DEVICE static std::size_t tasks(const Args&) { return 1; }

  QUOIT_DEVICE static void run(const Warp& warp, const Args& args, std::size_t) {
    Warp::Each<std::uint32_t> bits;
    warp.each([&](unsigned lane) {
      bits[lane] = 0;
      for (unsigned i = lane; i < cuda::Judged::kParts; i += 32)
        bits[lane] |= args.judged->at[1 + i];
    });
    QUOIT_UNROLL
    for (unsigned by = 1; by < 32; by *= 2) {
      const auto other = warp.across(bits, by);
      warp.each([&](unsigned lane) { bits[lane] |= other[lane]; });
    }
    warp.each([&](unsigned lane) {
      if (lane == 0) args.judged->at[0] = bits[lane];
    });
  }
};

// Zeros say nothing of where gradients will lie.
struct Keep {
  using Args = cuda::SumArgs;

  QUOIT_HOST_DEVICE static std::size_t tasks(const Args& args) {
    return runs_of(args.length, 32) * args.sum.columns;
  }

  QUOIT_DEVICE static void run(const Warp& warp, const Args& args, std::size_t task) {
    if (args.judged->at[0] != cuda::Judged::kNotZero) return;
    const std::size_t column = task % args.sum.columns;
    warp.each([&](unsigned lane) {
      const std::size_t i = task / args.sum.columns * 32 + lane;
      if (i < args.length)
        args.kept[column * args.length + i] = args.sum.at[column * args.sum.stride + i];
    });
  }
};

// ---- Launches, of steps one after the other: run.template operator()<Step>(args) runs all tasks
// of one before the next begins.

// call(As) of what the matrix is stored as.
template <class Call>
void stored_as(DType dtype, const Call& call) {
  if (dtype == DType::Float32) call(AsFloat{});
  if (dtype == DType::BFloat16) call(AsBrain{});
  if (dtype == DType::Float16) call(AsHalf{});
}

template <template <class, unsigned> class Product, class Fold, class Run>
void product_steps(const Run& run, const cuda::ProductArgs& args) {
  stored_as(args.m.dtype, [&]<class As>(As) {
    if (args.by.columns <= 4) {
      run.template operator()<Product<As, 4>>(args);
    } else {
      run.template operator()<Product<As, 8>>(args);
    }
  });
  run.template operator()<Fold>(args);
}

template <class Run>
void times_steps(const Run& run, const cuda::ProductArgs& args) {
  product_steps<Times, FoldAcross>(run, args);
}

template <class Run>
void times_down_steps(const Run& run, const cuda::ProductArgs& args) {
  product_steps<TimesDown, FoldDown>(run, args);
}

template <class Run>
void restore_steps(const Run& run, const cuda::RestoreArgs& args) {
  stored_as(args.m.dtype, [&]<class As>(As) { run.template operator()<Restore<As>>(args); });
}

template <class Run>
void orthonormal_steps(const Run& run, cuda::BasisArgs args) {
  run.template operator()<Gram>(args);
  run.template operator()<Blur>(args);
  for (const double shift : {kShift, 0.0}) {
    args.shift = shift;
    run.template operator()<Gram>(args);
    run.template operator()<Factorise>(args);
    run.template operator()<Solve>(args);
  }
}

template <class Run>
void judge_steps(const Run& run, const cuda::SumArgs& args) {
  run.template operator()<Judge>(args);
  run.template operator()<JudgeAll>(args);
}

}  // namespace
}  // namespace quoit
