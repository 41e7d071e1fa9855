// What a compressed mean loses: the variance-normalised mean squared error (vNMSE) of scatter,
// reduce, all-gather, |result - mean|^2 / |mean|^2, against figures of an independent simulation
// with unrounded scales. Prints what failed; returns non-zero then.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "checks.h"
#include "compress/codec.h"

using namespace quoit;

namespace {

constexpr std::size_t kElements = 1 << 18;
constexpr std::array<std::size_t, 3> kRanks{4, 8, 16};

using Tensors = std::vector<std::vector<float>>;

// Noise of each rank, and 0.3 times a signal that all share.
Tensors gaussian(std::size_t ranks, std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  std::normal_distribution<float> numbers;
  Tensors tensors(ranks, std::vector<float>(kElements));
  for (std::size_t i = 0; i < kElements; ++i) {
    const float shared = 0.3F * numbers(bits);
    for (auto& tensor : tensors) tensor[i] = shared + numbers(bits);
  }
  return tensors;
}

// The same of Student's t with three degrees of freedom, times a log-normal factor for each 1024.
Tensors heavy_tailed(std::size_t ranks, std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  std::normal_distribution<float> numbers;
  std::student_t_distribution<float> tails(3);
  Tensors tensors(ranks, std::vector<float>(kElements));
  float factor = 1;
  for (std::size_t i = 0; i < kElements; ++i) {
    if (i % 1024 == 0) factor = std::exp(numbers(bits));
    const float shared = 0.3F * tails(bits);
    for (auto& tensor : tensors) tensor[i] = factor * (shared + tails(bits));
  }
  return tensors;
}

double error_of(const Codec& codec, const Tensors& tensors) {
  const std::size_t ranks = tensors.size();
  const std::size_t tiles = kElements / kTile;
  double lost = 0, all = 0;
  std::vector<std::vector<std::byte>> encoded(ranks, std::vector<std::byte>(codec.bytes(kTile)));
  std::vector<float> sum(kTile), decoded(kTile);
  for (std::size_t t = 0; t < tiles; ++t) {
    const std::size_t owner = t * ranks / tiles, begin = t * kTile;
    std::vector<const std::byte*> theirs(ranks);
    const auto source = [&](const float* in, std::uint64_t stage) {
      Source from{.in = in, .count = kTile};
      from.key = (t * ranks + stage) * 2 + 1;
      return from;
    };
    for (std::size_t r = 0; r < ranks; ++r) {
      if (r == owner) continue;
      codec.encode(source(tensors[r].data() + begin, r), encoded[r].data());
      theirs[r] = encoded[r].data();
    }
    codec.sum({source(tensors[owner].data() + begin, owner), theirs, ranks}, sum.data());
    Source mean = source(sum.data(), ranks);
    mean.key += 1ULL << 40;
    codec.encode(mean, encoded[owner].data());
    codec.decode(encoded[owner].data(), decoded.data(), kTile);
    for (std::size_t i = 0; i < kTile; ++i) {
      double exact = 0;
      for (const auto& tensor : tensors) exact += tensor[begin + i];
      exact /= static_cast<double>(ranks);
      lost += (decoded[i] - exact) * (decoded[i] - exact);
      all += exact * exact;
    }
  }
  return lost / all;
}

// For each number of ranks. Random rounding doubles the error of bf16, and a rotated Gaussian is
// one.
struct Expected {
  std::string codec;
  std::array<double, kRanks.size()> error;
};

const std::array<Expected, 9> kGaussian{{{"bf16", {4.4e-6, 4.3e-6, 3.9e-6}},
                                         {"bf16(stochastic)", {8.8e-6, 8.6e-6, 7.8e-6}},
                                         {"int8", {6.8e-5, 6.6e-5, 6.1e-5}},
                                         {"fp8", {1.1e-3, 1.0e-3, 9e-4}},
                                         {"int4", {1.33e-2, 1.30e-2, 1.18e-2}},
                                         {"int4(hadamard)", {2.3e-2, 2.2e-2, 2.0e-2}},
                                         {"sign", {0.493, 0.501, 0.488}},
                                         {"topk(ratio=0.01, bits=8)", {0.952, 0.962, 0.969}},
                                         {"topk(ratio=0.1, bits=8)", {0.675, 0.700, 0.703}}}};
const std::array<Expected, 7> kHeavyTailed{{{"bf16", {4.4e-6, 4.3e-6, 3.9e-6}},
                                            {"int8", {2.2e-4, 2.0e-4, 2.0e-4}},
                                            {"fp8", {8.7e-4, 8.7e-4, 7.7e-4}},
                                            {"int4", {2.3e-2, 2.25e-2, 2.06e-2}},
                                            {"int4(hadamard)", {2.1e-2, 2.02e-2, 1.80e-2}},
                                            {"sign", {0.618, 0.629, 0.633}},
                                            {"topk(ratio=0.01, bits=8)", {0.698, 0.740, 0.768}}}};

// The median over some samples: t with three degrees of freedom has no fourth moment, so that
// single ones differ by as much as a third, and the figures, of single samples, have two digits.
template <class Expectations, class Make>
void check(const char* what, const Expectations& all, std::size_t samples, double tolerance,
           const Make& make) {
  for (std::size_t k = 0; k < kRanks.size(); ++k) {
    std::vector<std::vector<double>> errors(all.size());
    for (std::size_t seed = 1; seed <= samples; ++seed) {
      const Tensors tensors = make(kRanks[k], seed);
      for (std::size_t c = 0; c < all.size(); ++c)
        errors[c].push_back(error_of(*codec_named(all[c].codec), tensors));
    }
    for (std::size_t c = 0; c < all.size(); ++c) {
      std::sort(errors[c].begin(), errors[c].end());
      const double error = errors[c][samples / 2];
      const double expected = all[c].error[k];
      const double off = error / expected - 1;
      const bool good = std::fabs(off) <= tolerance;
      quoit::test::failures += good ? 0 : 1;
      std::printf("%s%s of %zu ranks, %s: %.3e, %+.1f %% of %.3e\n",
                  good ? "" : "FAILED: ", all[c].codec.c_str(), kRanks[k], what, error, 100 * off,
                  expected);
    }
  }
}

}  // namespace

int main() {
  check("Gaussian", kGaussian, 1, 0.05, gaussian);
  check("heavy-tailed", kHeavyTailed, 7, 0.075, heavy_tailed);
  return quoit::test::verdict();
}
