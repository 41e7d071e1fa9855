// Low-rank parts: the sum of what comes out and what is kept is what went in, replicas are
// bit-identical, and what is not finite leaves no trace.
#include "kernels/cast.h"
#include "low_rank_reference.h"
#include "low_rank_world.h"

using namespace quoit;
using namespace quoit::test;

namespace {

// With another loss scale at every step.
void nothing_is_lost_but_the_residuals(World w, LowRank::Method method, ReduceOp op, int steps) {
  Ranks ranks(w, method);
  std::vector<double> left(total()), given(total());
  for (int step = 0; step < steps; ++step) {
    const float unit = std::ldexp(1.0F, step % 7);
    for (int r = 0; r < w.ranks; ++r) {
      std::vector<float>& data = ranks.of[static_cast<std::size_t>(r)].data;
      data = noise(total(), r, step);
      for (std::size_t i = 0; i < total(); ++i) {
        const double value = op == ReduceOp::Avg ? data[i] / w.ranks : data[i];
        given[i] += value;
        left[i] += value;
        data[i] *= unit;
      }
    }
    ranks.reduce(unit, op, step % 2 == 1);
    for (std::size_t i = 0; i < total(); ++i) left[i] -= ranks.of[0].data[i] / unit;
  }
  for (const Rank& rank : ranks.of)
    for (std::size_t i = 0; i < total(); ++i) left[i] -= rank.state.residual[i];
  const double wrong = length_of(left) / length_of(given);
  EXPECT(wrong < 1e-6, ranks.what(), ": lost ", wrong);
}

// What comes out of a step that begins with this state.
Matrix expected(const Matrix& mean, const State::Factors& state, LowRank::Method method,
                std::size_t rank) {
  const bool classic = method == LowRank::Method::PowerSgd;
  Matrix down;  // columns of P, orthonormal
  if (classic || state.turn % 2 == 0) {
    const Matrix across = orthonormal(columns_of(state.q, rank));
    const Matrix p = product(mean, transposed(across));
    if (!classic) return product(p, across);
    down = orthonormal(transposed(p));
  } else {
    down = orthonormal(columns_of(state.p, rank));
  }
  return product(transposed(down), product(down, mean));
}

void beside_a_reference(LowRank::Method method) {
  Ranks ranks({2, 1}, method);
  for (int step = 0; step < 5; ++step) {
    for (int r = 0; r < 2; ++r)
      ranks.of[static_cast<std::size_t>(r)].data = noise(total(), r, step);
    const std::vector<Rank> before = ranks.of;
    ranks.reduce();
    std::size_t begin = 0;
    for (std::size_t t = 0; t < kTensors.size(); begin += kTensors[t++].count()) {
      const Sides& s = kTensors[t].sides;
      // The first bases are at random.
      const LowRank::Method its = kTensors[t].method(method);
      if (kTensors[t].size > 0 || step < (its == LowRank::Method::Acp ? 2 : 1)) continue;
      Matrix mean(s.rows, std::vector<double>(s.cols));
      for (const Rank& rank : before)
        for (std::size_t i = 0; i < s.rows * s.cols; ++i)
          mean[i / s.cols][i % s.cols] +=
              rank.data[begin + i] / 2.0 + rank.state.residual[begin + i];
      const Matrix out = expected(mean, before[0].state.factors[t], its, s.rank);
      double wrong = 0, length = 0;
      for (std::size_t i = 0; i < s.rows * s.cols; ++i) {
        const double value = out[i / s.cols][i % s.cols];
        wrong += std::pow(ranks.of[0].data[begin + i] - value, 2);
        length += value * value;
      }
      EXPECT(std::sqrt(wrong / length) < 1e-5, ranks.what(), ": step ", step, ", ", s.rows, " x ",
             s.cols, ": ", std::sqrt(wrong / length));
    }
  }
}

// The same matrix again and again, of the rank that is sent: every other step leaves nothing.
void low_ranks_are_found(LowRank::Method method) {
  Ranks ranks({3, 1}, method);
  std::vector<float> data(total());
  const auto u = noise(2000, 1, 1), v = noise(8000, 2, 2);
  std::size_t begin = 0;
  for (const Tensor& tensor : kTensors) {
    const Sides& s = tensor.sides;
    for (std::size_t i = 0; i < s.rows; ++i)
      for (std::size_t k = 0; k < s.cols; ++k)
        for (std::size_t c = 0; c < s.rank; ++c)
          data[begin + i * s.cols + k] += u[c * s.rows + i] * v[c * s.cols + k];
    begin += tensor.count();
  }
  for (int step = 0; step < 4; ++step) {
    for (Rank& rank : ranks.of) rank.data = data;
    ranks.reduce();
  }
  begin = 0;
  for (const Tensor& tensor : kTensors) {
    double wrong = 0, length = 0;
    for (std::size_t i = begin; i < begin + tensor.count(); ++i) {
      wrong += std::pow(ranks.of[0].state.residual[i], 2);
      length += std::pow(data[i], 2);
    }
    begin += tensor.count();
    if (tensor.size == 0)
      EXPECT(std::sqrt(wrong / length) < 1e-5, ranks.what(), ": ", tensor.sides.rows, " x ",
             tensor.sides.cols, ": ", std::sqrt(wrong / length));
  }
}

void zeros_stay_zeros(LowRank::Method method) {
  Ranks ranks({3, 1}, method);
  for (int step = 0; step < 6; ++step) {
    const bool zero = step != 2 && step != 3;
    for (Rank& rank : ranks.of) {
      rank.data = zero ? std::vector<float>(total()) : noise(total(), 0, step);
      if (step == 4) std::fill(rank.state.residual.begin(), rank.state.residual.end(), 0.0F);
    }
    const State before = ranks.of[0].state;
    ranks.reduce();
    for (const float value : ranks.of[0].data) {
      EXPECT(std::isfinite(value), ranks.what(), ": step ", step);
      EXPECT(!zero || value == 0, ranks.what(), ": step ", step, ": ", value);
    }
    // Directions are kept.
    const State& after = ranks.of[0].state;
    for (std::size_t i = 0; i < kTensors.size() && zero && step > 0; ++i) {
      EXPECT(same_bits(before.factors[i].p, after.factors[i].p), "step ", step);
      EXPECT(same_bits(before.factors[i].q, after.factors[i].q), "step ", step);
    }
  }
}

// One element of one rank, at a step of either turn.
void what_is_not_finite_leaves_no_trace(World w, LowRank::Method method, float bad) {
  Ranks ranks(w, method);
  const std::size_t place = kTensors[0].count() + 5 * 1037 + 17;  // of the first matrix
  for (int step = 0; step < 6; ++step) {
    const bool spoilt = step == 2 || step == 4;
    std::vector<std::vector<float>> before;
    for (int r = 0; r < w.ranks; ++r) {
      Rank& rank = ranks.of[static_cast<std::size_t>(r)];
      rank.data = noise(total(), r, step);
      if (spoilt && r == w.ranks - 1) rank.data[place] = bad;
      before.push_back(rank.state.residual);
    }
    const std::int64_t turn = ranks.of[0].state.factors[1].turn;
    ranks.reduce(1, ReduceOp::Avg, w.hosts == 1);
    EXPECT(std::isfinite(ranks.of[0].data[place]) != spoilt, ranks.what(), ": step ", step);
    EXPECT(ranks.of[0].state.factors[1].turn == turn + 1, ranks.what());
    for (std::size_t r = 0; r < before.size(); ++r) {
      for (const float value : ranks.of[r].state.all())
        EXPECT(std::isfinite(value), ranks.what(), ": step ", step);
      const std::size_t begin = kTensors[0].count();
      for (std::size_t i = begin; i < begin + kTensors[1].count() && spoilt; ++i)
        EXPECT(before[r][i] == ranks.of[r].state.residual[i], ranks.what(), ": residual");
    }
  }
}

void half_precision(DType dtype, World w) {
  auto world = make_world(hosts_of(w.ranks, w.hosts));
  std::vector<std::vector<std::uint16_t>> results(static_cast<std::size_t>(w.ranks));
  std::vector<State> states(results.size());
  std::vector<double> left(total()), given(total());
  const bool brain = dtype == DType::BFloat16;
  for (int step = 0; step < 8; ++step) {
    for (int r = 0; r < w.ranks; ++r) {
      std::vector<std::uint16_t>& x = results[static_cast<std::size_t>(r)];
      x.clear();
      for (const float value : noise(total(), r, step))
        x.push_back(brain ? bf16_from_float(value) : f16_from_float(value));
      for (std::size_t i = 0; i < total(); ++i)
        given[i] += (brain ? float_from_bf16(x[i]) : float_from_f16(x[i])) / w.ranks;
    }
    on_all(world, [&](Communicator& c) {
      const auto me = static_cast<std::size_t>(c.rank());
      CompressionTerms terms;
      terms.fingerprint = 1;
      wait(c, c.compressed_all_reduce(view(results[me], dtype),
                                      states[me].compression(LowRank::Method::Acp), terms,
                                      {ReduceOp::Avg}));
    });
    for (std::size_t i = 0; i < total(); ++i)
      left[i] -= brain ? float_from_bf16(results[0][i]) : float_from_f16(results[0][i]);
  }
  for (std::size_t i = 0; i < total(); ++i) left[i] += given[i];
  for (const State& state : states)
    for (std::size_t i = 0; i < total(); ++i) left[i] -= state.residual[i];
  // But for the rounding of what comes out.
  EXPECT(length_of(left) / length_of(given) < (brain ? 0x1p-8 : 0x1p-11), name_of(dtype), ": ",
         length_of(left) / length_of(given));
}

// Nobody to send to: all comes out.
void alone() {
  Ranks ranks({1, 1}, LowRank::Method::Acp);
  Rank& rank = ranks.of[0];
  rank.data = noise(total(), 0, 0);
  rank.state.residual = noise(total(), 0, 1);
  std::vector<float> expected = rank.data;
  for (std::size_t i = 0; i < total(); ++i) expected[i] += rank.state.residual[i];
  ranks.reduce();
  EXPECT(rank.data == expected, "alone");
  for (const float value : rank.state.residual) EXPECT(value == 0, "alone");
}

void mistakes() {
  auto world = make_world(hosts_of(2, 1), "auto", 10);
  on_all(world, [&](Communicator& c) {
    std::vector<float> x(64), residual(64), p(8), q(16);
    std::int64_t own_turn = c.rank();
    const auto matrix = [&](std::size_t rank) {
      return std::make_shared<const LowRank>(
          LowRank{LowRank::Method::Acp, rank, 4, 8, p.data(), q.data(), &own_turn});
    };
    const CodecPtr raw = codec_named("raw");
    const auto two = std::make_shared<const Compression>(
        std::vector<Part>{{{0, 32}, raw, residual.data(), matrix(2)},
                          {{32, 32}, raw, residual.data() + 32, nullptr}});
    std::vector<float> out(32);
    contains(error_of([&] {
               wait(c,
                    c.compressed_reduce_scatter(view(x, DType::Float32), view(out, DType::Float32),
                                                two, {}, {ReduceOp::Sum}));
             }),
             "only an all_reduce has whole matrices");
    contains(error_of([&] {
               wait(c, c.compressed_all_reduce(view(x, DType::Float32), two, {}, {ReduceOp::Sum}));
             }),
             "low-rank factors of another step");
  });
  auto again = make_world(hosts_of(2, 2), "auto", 10);
  on_all(again, [&](Communicator& c) {
    std::vector<float> x(32), residual(32), p(12), q(24);
    std::int64_t own_turn = 0;
    const auto matrix = std::make_shared<const LowRank>(
        LowRank{LowRank::Method::Acp, c.rank() == 0 ? std::size_t{2} : std::size_t{3}, 4, 8,
                p.data(), q.data(), &own_turn});
    const auto how = std::make_shared<const Compression>(
        std::vector<Part>{{{0, 32}, codec_named("raw"), residual.data(), matrix}});
    contains(error_of([&] {
               wait(c, c.compressed_all_reduce(view(x, DType::Float32), how, {}, {ReduceOp::Sum}));
             }),
             "other sizes or codecs");
  });
}

}  // namespace

int main() {
  for (const LowRank::Method method : kMethods) {
    nothing_is_lost_but_the_residuals({2, 1}, method, ReduceOp::Avg, 100);
    for (const World& w : kWorlds) {
      nothing_is_lost_but_the_residuals(w, method, ReduceOp::Avg, 12);
      what_is_not_finite_leaves_no_trace(w, method, INFINITY);
    }
    nothing_is_lost_but_the_residuals({3, 1}, method, ReduceOp::Sum, 12);
    what_is_not_finite_leaves_no_trace({2, 1}, method, NAN);
    what_is_not_finite_leaves_no_trace({2, 1}, method, -INFINITY);
    beside_a_reference(method);
    low_ranks_are_found(method);
    zeros_stay_zeros(method);
  }
  for (const DType dtype : {DType::BFloat16, DType::Float16}) {
    half_precision(dtype, {3, 1});
    half_precision(dtype, {4, 2});
  }
  alone();
  mistakes();
  return 0;
}
