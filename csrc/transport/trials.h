#pragma once
// Finds out which of several ways of doing a thing is the fastest here and now, by doing it: which
// one that is differs from machine to machine, and changes when processes migrate. kProbe calls in
// a cycle go another way than the fastest: several in a row, as the first finds the caches as the
// other way left them. While they only confirm what is known, cycles become longer.
#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>

namespace quoit {

template <std::size_t kWays>
class Trials {
 public:
  static constexpr unsigned kProbe = 4;
  static constexpr unsigned kFewProbes = 2;  // of calls that are long, whatever the caches hold
  static constexpr unsigned kCycle = 128;
  static constexpr unsigned kLongestCycle = 512;
  static constexpr double kMargin = 0.93;
  static constexpr unsigned kSample = 8;  // of the calls that are no trials one in so many is timed

  // The way of the next call; open[w] tells whether it may go way w, of which there is one.
  std::size_t next(const std::array<bool, kWays>& open, unsigned probes = kProbe) {
    ++calls_;
    std::array<std::size_t, kWays> ways{};
    std::size_t n = 0;
    for (std::size_t way = 0; way < kWays; ++way)
      if (open[way]) ways[n++] = way;
    for (std::size_t i = 0; i < n; ++i) {
      if (known_[ways[i]].asked >= probes) continue;
      ++known_[ways[i]].asked;
      return ways[i];
    }
    std::sort(ways.begin(), ways.begin() + static_cast<std::ptrdiff_t>(n),
              [this](std::size_t a, std::size_t b) { return known_[a].cost < known_[b].cost; });
    // A change of ways has a price, too.
    const bool better = known_[ways[0]].cost < kMargin * known_[best_].cost;
    if (better || !open[best_]) {
      best_ = ways[0];
      cycle_ = kCycle;
      since_ = 0;
    }
    if (++since_ <= cycle_ - probes || n == 1) return best_;
    const std::size_t other = ways[turns_ % (n - 1)];
    if (since_ >= cycle_) {
      ++turns_;
      since_ = 0;
      cycle_ = std::min(2 * cycle_, kLongestCycle);
    }
    return other == best_ ? ways[n - 1] : other;
  }

  // Whether it is worth knowing how long a call takes that goes this way.
  [[nodiscard]] bool wants(std::size_t way) const {
    return way != best_ || calls_ <= kWays * (kProbe + 1) || calls_ % kSample == 0;
  }

  // A call took so long, in whatever unit all of them are told in.
  void record(std::size_t way, double cost) {
    Known& known = known_[way];
    // The first ones meet cold caches: the lowest counts. Later an average that follows: a lost
    // core makes a call long, which says nothing of the way, so twofold is believed at most.
    if (known.told < kProbe) {
      known.cost = known.told == 0 ? cost : std::min(known.cost, cost);
      ++known.told;
    } else {
      known.cost += (std::min(cost, 2 * known.cost) - known.cost) / 4;
    }
  }

 private:
  struct Known {
    double cost = 0;
    unsigned asked = 0;  // for trials: up to kProbe
    unsigned told = 0;   // how long they took: up to kProbe
  };

  std::array<Known, kWays> known_{};
  std::size_t best_ = 0;
  unsigned calls_ = 0;
  unsigned cycle_ = kCycle;
  unsigned since_ = 0;  // calls of this cycle
  unsigned turns_ = 0;  // cycles that are over
};

// Kinds of what moves bytes, each with its own trials, as what fits a cache differs from what does
// not: from one power of two to the next, of `first` on; the last kind is for all beyond.
inline std::size_t size_kind(std::size_t bytes, std::size_t first, std::size_t kinds) {
  const auto kind = static_cast<std::size_t>(std::bit_width(bytes / first | 1) - 1);
  return std::min(kind, kinds - 1);
}

}  // namespace quoit
