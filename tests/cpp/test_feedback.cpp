// A hundred steps of every codec with error feedback, as training makes them: nothing is lost but
// what the residuals hold, the replicas stay bit-identical whatever instruction sets the ranks
// have, and what is not finite is gone after its step.
#include "compressed.h"

using namespace quoit;
using namespace quoit::test;

namespace {

constexpr int kBadStep = 100;
constexpr int kSteps = 120;
constexpr std::size_t kEach = 9001;  // two tiles, and one that fills neither a tile nor a block

const std::vector<World> kWorlds{{2, 1}, {3, 3}, {4, 2}, {4, 4, "tcp"}, {8, 4}};

std::size_t total() { return kCodecs.size() * kEach; }

// All codecs in one buffer.
std::vector<Part> parts_of(float* residual, Isa isa) {
  std::vector<Part> parts;
  for (std::size_t k = 0; k < kCodecs.size(); ++k)
    parts.push_back({{k * kEach, kEach}, codec_named(kCodecs[k], isa), residual + k * kEach});
  return parts;
}

// Ranks of one machine cannot differ in this; here they do.
Isa isa_of(int rank) { return rank % 2 == 1 ? Isa::Baseline : isa_in_use(); }

// What the ranks give at a step. At one step, one element of each codec on the last rank is not
// finite, and at that step the whole is left out of what must be conserved.
std::vector<float> given_by(const World& w, int rank, int step) {
  std::vector<float> values = noise(total(), rank, step);
  if (step == kBadStep && rank == w.ranks - 1) {
    for (std::size_t k = 0; k < kCodecs.size(); ++k)
      values[k * kEach + 6000] = k % 2 == 0 ? INFINITY : NAN;
  }
  return values;
}

void check_conserved(const std::string& what, const std::vector<double>& given,
                     const std::vector<double>& sent, const Gathered& residuals) {
  for (std::size_t k = 0; k < kCodecs.size(); ++k) {
    double wrong = 0, length = 0;
    for (std::size_t i = k * kEach; i < (k + 1) * kEach; ++i) {
      double left = given[i] - sent[i];
      for (const auto& residual : residuals.of) left -= residual[i];
      wrong += left * left;
      length += given[i] * given[i];
    }
    const double off = std::sqrt(wrong / length);
    EXPECT(off < 1e-6, what, ", ", kCodecs[k], ": lost ", off);
  }
}

// A step of all ranks; the mean in all of `results`.
void step_of(std::vector<ThreadRank>& world, const World& w, int step, Gathered& results,
             Gathered& residuals) {
  on_all(world, [&](Communicator& c) {
    results[c] = given_by(w, c.rank(), step);
    CompressionTerms terms;
    terms.seed = static_cast<std::uint64_t>(step);
    const auto how = compression(parts_of(residuals[c].data(), isa_of(c.rank())));
    wait(c, c.compressed_all_reduce(view(results[c], DType::Float32), how, terms, {ReduceOp::Avg}));
  });
}

void train(const World& w) {
  const std::string what = text(w.ranks, " ranks on ", w.hosts, " ", w.transport);
  auto world = make_world(hosts_of(w.ranks, w.hosts), "auto", 60, w.transport);
  Gathered results(w.ranks), residuals(w.ranks, total());
  std::vector<double> sent(total()), given(total());
  for (int step = 0; step < kSteps; ++step) {
    step_of(world, w, step, results, residuals);
    results.expect_alike(text(what, ", step ", step));
    const std::vector<float>& mean = results.of[0];
    for (std::size_t k = 0; k < kCodecs.size(); ++k) {
      const auto begin = mean.begin() + static_cast<std::ptrdiff_t>(k * kEach);
      const bool finite =
          std::all_of(begin, begin + kEach, [](float x) { return std::isfinite(x); });
      EXPECT(finite == (step != kBadStep), what, ", ", kCodecs[k], ", step ", step);
      EXPECT(finite || !std::isfinite(begin[6000]), what, ", ", kCodecs[k]);
    }
    if (step == kBadStep) {  // what the others gave is known to none: begin again
      for (const auto& residual : residuals.of)
        for (const float x : residual) EXPECT(std::isfinite(x), what, ": a residual is not finite");
      std::fill(sent.begin(), sent.end(), 0.0);
      std::fill(given.begin(), given.end(), 0.0);
      for (const auto& residual : residuals.of)
        for (std::size_t i = 0; i < total(); ++i) given[i] += residual[i];
      continue;
    }
    for (std::size_t i = 0; i < total(); ++i) sent[i] += mean[i];
    for (int rank = 0; rank < w.ranks; ++rank) {
      const std::vector<float> gave = given_by(w, rank, step);
      for (std::size_t i = 0; i < total(); ++i) given[i] += gave[i] / w.ranks;
    }
    if (step + 1 == kBadStep || step + 1 == kSteps) check_conserved(what, given, sent, residuals);
  }
}

}  // namespace

int main() {
  for (const World& w : kWorlds) train(w);
  return 0;
}
