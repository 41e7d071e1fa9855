#pragma once
// What the threads of a team tell each other. Include device_cuda.h (or the tests' device_plain.h)
// first.
#include "kernels/row_memory.h"

namespace quoit {
namespace {

inline constexpr unsigned kTeamWarps = kTeam / 32;

// A tile's numbers, 512 to a warp; a lane has four neighbours, four times.
struct Neighbours {
  static constexpr bool kNeighbours = true;
  QUOIT_HOST_DEVICE static constexpr unsigned first(unsigned lane) { return lane * 4; }
  QUOIT_HOST_DEVICE static constexpr unsigned offset(unsigned i) { return i / 4 * 128 + i % 4; }
};

// Of a thread: how many numbers that were chosen come before its four neighbours, for each four.
struct Ranks {
  unsigned at[4];
};

// Each exchange is one sync(): warps write where nobody reads until the next one is over.
class Exchange {
 public:
  using Parts = std::uint32_t[2][kTeamWarps];  // of shared memory

  QUOIT_DEVICE Exchange(const Team& team, Parts& parts) : team_(team), parts_(parts) {}

  // Of all threads' numbers, for all of them.
  template <class Fold>
  QUOIT_DEVICE std::uint32_t all(Team::Each<std::uint32_t>& x, const Fold& fold) {
    QUOIT_UNROLL
    for (unsigned bits = 1; bits < 32; bits *= 2) {
      const auto other = team_.across(x, bits);
      team_.each([&](unsigned t) { x[t] = fold(x[t], other[t]); });
    }
    share(x);
    std::uint32_t result = parts_[turn_][0];
    QUOIT_UNROLL
    for (unsigned w = 1; w < kTeamWarps; ++w) result = fold(result, parts_[turn_][w]);
    return result;
  }

  QUOIT_DEVICE std::uint32_t sum(Team::Each<std::uint32_t>& x) {
    return all(x, [](std::uint32_t a, std::uint32_t b) { return a + b; });
  }
  QUOIT_DEVICE std::uint32_t largest(Team::Each<std::uint32_t>& x) {
    return all(x, [](std::uint32_t a, std::uint32_t b) { return a > b ? a : b; });
  }
  QUOIT_DEVICE std::uint32_t least(Team::Each<std::uint32_t>& x) {
    return all(x, [](std::uint32_t a, std::uint32_t b) { return a < b ? a : b; });
  }

  // Bit i: the thread's i-th number is chosen. In the order of the tile.
  QUOIT_DEVICE void rank(const Team::Each<std::uint32_t>& chosen, Team::Each<Ranks>& ranks) {
    Team::Each<std::uint32_t> before, total;  // a byte for each four: 128 of a warp at most
    team_.each([&](unsigned t) {
      total[t] = 0;
      QUOIT_UNROLL
      for (unsigned g = 0; g < 4; ++g)
        total[t] |= static_cast<std::uint32_t>(__builtin_popcount(chosen[t] >> 4 * g & 15))
                    << 8 * g;
      before[t] = 0;
    });
    QUOIT_UNROLL
    for (unsigned bits = 1; bits < 32; bits *= 2) {
      const auto other = team_.across(total, bits);
      team_.each([&](unsigned t) {
        before[t] += (t & bits) != 0 ? other[t] : 0;
        total[t] += other[t];
      });
    }
    share(total);
    team_.each([&](unsigned t) {
      std::uint32_t even = 0, odd = 0;  // of the warps before
      QUOIT_UNROLL
      for (unsigned w = 0; w < kTeamWarps; ++w) {
        const std::uint32_t part = w < t / 32 ? parts_[turn_][w] : 0;
        even += part & 0x00ff00ff;
        odd += part >> 8 & 0x00ff00ff;
      }
      even += odd;
      unsigned base = (even & 0xffff) + (even >> 16);
      QUOIT_UNROLL
      for (unsigned g = 0; g < 4; ++g) {
        ranks[t].at[g] = base + (before[t] >> 8 * g & 0xff);
        base += total[t] >> 8 * g & 0xff;
      }
    });
  }

 private:
  QUOIT_DEVICE void share(const Team::Each<std::uint32_t>& x) {
    turn_ ^= 1;
    team_.each([&](unsigned t) {
      if (t % 32 == 0) parts_[turn_][t / 32] = x[t];
    });
    team_.sync();
  }

  const Team& team_;
  Parts& parts_;
  unsigned turn_ = 0;
};

}  // namespace
}  // namespace quoit
