#pragma once
// Ranks that sum a buffer of matrices and of other tensors, step after step.
#include <cmath>
#include <cstring>
#include <random>

#include "world.h"

namespace quoit::test {

struct World {
  int ranks;
  int hosts;
  std::string transport = "auto";
};
inline const std::vector<World> kWorlds{{2, 1}, {3, 1}, {4, 2}, {4, 4, "tcp"}, {5, 2}, {8, 2}};

inline const std::vector<LowRank::Method> kMethods{LowRank::Method::Acp, LowRank::Method::PowerSgd};

struct Sides {
  std::size_t rows, cols, rank;
};

// A tensor of a buffer: a matrix, or something else of `size` elements.
struct Tensor {
  Sides sides{};
  std::string codec{};
  std::size_t size = 0;
  bool other = false;  // by the other method
  [[nodiscard]] LowRank::Method method(LowRank::Method usual) const {
    const bool acp = (usual == LowRank::Method::Acp) != other;
    return acp ? LowRank::Method::Acp : LowRank::Method::PowerSgd;
  }
  [[nodiscard]] std::size_t count() const { return size > 0 ? size : sides.rows * sides.cols; }
};

// Sides that do and do not fill lanes, panels and stripes; more rows than columns and fewer.
inline const std::vector<Tensor> kTensors{
    {{}, "raw", 33},    {{70, 1037, 4}},          {{129, 65, 5}},
    {{}, "int8", 5000}, {{9, 9, 9}, "", 0, true}, {{1, 300, 1}},
    {{257, 3, 2}},      {{}, "raw", 129},         {{300, 400, 3}, "", 0, true},
};

inline std::size_t total() {
  std::size_t count = 0;
  for (const Tensor& tensor : kTensors) count += tensor.count();
  return count;
}

inline std::vector<float> noise(std::size_t count, int rank, int step) {
  std::mt19937 random(static_cast<unsigned>(1000 * step + rank));
  std::normal_distribution<float> normal(0.1F, 1.0F);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// What a rank keeps from step to step.
struct State {
  struct Factors {
    std::vector<float> p, q;
    std::int64_t turn = 0;
  };
  std::vector<float> residual = std::vector<float>(total());
  std::vector<Factors> factors = std::vector<Factors>(kTensors.size());

  std::shared_ptr<const Compression> compression(LowRank::Method method, Isa isa = isa_in_use()) {
    std::vector<Part> parts;
    std::size_t begin = 0;
    for (std::size_t i = 0; i < kTensors.size(); ++i) {
      const Tensor& tensor = kTensors[i];
      Part part{{begin, tensor.count()}, codec_named("raw", isa), residual.data() + begin};
      if (tensor.size > 0) {
        part.codec = codec_named(tensor.codec, isa);
      } else {
        Factors& mine = factors[i];
        const Sides& sides = tensor.sides;
        mine.p.resize(sides.rows * sides.rank);
        mine.q.resize(sides.cols * sides.rank);
        part.matrix = std::make_shared<const LowRank>(LowRank{tensor.method(method), sides.rank,
                                                              sides.rows, sides.cols, mine.p.data(),
                                                              mine.q.data(), &mine.turn});
      }
      parts.push_back(std::move(part));
      begin += tensor.count();
    }
    return std::make_shared<const Compression>(std::move(parts));
  }

  [[nodiscard]] std::vector<float> all() const {
    std::vector<float> values = residual;
    for (const Factors& one : factors) {
      values.insert(values.end(), one.p.begin(), one.p.end());
      values.insert(values.end(), one.q.begin(), one.q.end());
      values.push_back(static_cast<float>(one.turn));
    }
    return values;
  }

  // What ranks must have in common.
  [[nodiscard]] std::vector<float> shared() const {
    const std::vector<float> values = all();
    return {values.begin() + static_cast<std::ptrdiff_t>(residual.size()), values.end()};
  }
};

template <class T>
inline bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// One rank's place in what a world holds.
struct Rank {
  std::vector<float> data;
  State state;
};

class Ranks {
 public:
  Ranks(World w, LowRank::Method method)
      : of(static_cast<std::size_t>(w.ranks)),
        method_(method),
        what_(text(w.ranks, " ranks on ", w.hosts, ", method ", static_cast<int>(method))),
        world_(make_world(hosts_of(w.ranks, w.hosts), "auto", 60, w.transport)) {}

  // All ranks call all_reduce once with their data.
  void reduce(float unit = 1, ReduceOp op = ReduceOp::Avg, bool mixed = false) {
    on_all(world_, [&](Communicator& c) {
      Rank& rank = of[static_cast<std::size_t>(c.rank())];
      const Isa isa = mixed && c.rank() % 2 == 0 ? Isa::Baseline : isa_in_use();
      CompressionTerms terms;
      terms.unit = unit;
      terms.fingerprint = 1;  // compares replicas
      wait(c, c.compressed_all_reduce(view(rank.data, DType::Float32),
                                      rank.state.compression(method_, isa), terms, {op}));
    });
    for (const Rank& rank : of) {
      EXPECT(same_bits(rank.data, of[0].data), what_, ": replicas differ");
      EXPECT(same_bits(rank.state.shared(), of[0].state.shared()), what_, ": states differ");
    }
  }

  [[nodiscard]] const std::string& what() const { return what_; }
  std::vector<Rank> of;

 private:
  LowRank::Method method_;
  std::string what_;
  std::vector<ThreadRank> world_;
};

inline double length_of(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

}  // namespace quoit::test
