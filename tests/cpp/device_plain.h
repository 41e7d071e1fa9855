#pragma once
// In place of kernels/device_cuda.h: the code of CUDA kernels, run by the host. The lanes of a warp
// take turns between two exchanges, so whatever a lane reads of another has been written.
#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/cast.h"

namespace quoit {
namespace {

class Warp {
 public:
  template <class T>
  using Each = std::array<T, 32>;

  template <class Call>
  void each(const Call& call) const {
    for (unsigned lane = 0; lane < 32; ++lane) call(lane);
  }

  template <class T>
  [[nodiscard]] Each<T> across(const Each<T>& x, unsigned bits) const {
    Each<T> other;
    for (unsigned lane = 0; lane < 32; ++lane) other[lane] = x[lane ^ bits];
    return other;
  }

  [[nodiscard]] std::uint32_t ballot(const Each<bool>& x) const {
    std::uint32_t bits = 0;
    for (unsigned lane = 0; lane < 32; ++lane) bits |= std::uint32_t{x[lane]} << lane;
    return bits;
  }

  void sync() const {}
};

class Team {
 public:
  template <class T>
  using Each = std::array<T, kTeam>;

  template <class Call>
  void each(const Call& call) const {
    for (unsigned thread = 0; thread < kTeam; ++thread) call(thread);
  }
  void sync() const {}

  template <class T>
  [[nodiscard]] Each<T> across(const Each<T>& x, unsigned bits) const {
    Each<T> other;
    for (unsigned thread = 0; thread < kTeam; ++thread) other[thread] = x[thread ^ bits];
    return other;
  }

  [[nodiscard]] unsigned count(const Each<bool>& x) const {
    return static_cast<unsigned>(std::count(x.begin(), x.end(), true));
  }

  unsigned add(unsigned& to, unsigned value) const {
    to += value;
    return to - value;
  }
};

inline float widen_half(std::uint16_t x) { return float_from_f16(x); }
inline std::uint16_t narrow_half(float x) { return f16_from_float(x); }

}  // namespace
}  // namespace quoit
