#pragma once
// What a kernel asks of a CUDA device beyond arithmetic; tests/cpp/device_plain.h is the other
// choice, for tests on the host, and gives the same bits. Only nvcc can read this one.
#include <cstdint>

#include "kernels/device.h"

namespace quoit {
namespace {

// The 32 threads of a warp, its lanes. What they do between two exchanges is a function of the lane
// that each() calls: here once, in the thread of the lane.
class Warp {
 public:
  // A value for each lane; a thread has its own.
  template <class T>
  struct Each {
    T own;
    __device__ T& operator[](unsigned) { return own; }
    __device__ const T& operator[](unsigned) const { return own; }
  };

  template <class Call>
  __device__ void each(const Call& call) const {
    call(threadIdx.x % 32);
  }

  // To every lane the value of the one whose number differs in `bits`.
  template <class T>
  [[nodiscard]] __device__ Each<T> across(const Each<T>& x, unsigned bits) const {
    return {__shfl_xor_sync(~0U, x.own, static_cast<int>(bits))};
  }

  // Bit l: x[l].
  [[nodiscard]] __device__ std::uint32_t ballot(const Each<bool>& x) const {
    return __ballot_sync(~0U, x.own);
  }

  // What a lane wrote to memory the others see after this.
  __device__ void sync() const { __syncwarp(); }
};

// The threads of a thread block. What one wrote to shared memory others see after sync(). All of
// them must call all but each().
class Team {
 public:
  template <class T>
  using Each = Warp::Each<T>;

  template <class Call>
  __device__ void each(const Call& call) const {
    call(threadIdx.x);
  }
  __device__ void sync() const { __syncthreads(); }

  // As of a Warp.
  template <class T>
  [[nodiscard]] __device__ Each<T> across(const Each<T>& x, unsigned bits) const {
    return Warp{}.across(x, bits);
  }

  // How many are true; a sync().
  [[nodiscard]] __device__ unsigned count(const Each<bool>& x) const {
    return static_cast<unsigned>(__syncthreads_count(x.own));
  }

  // What was there before; any thread may call it.
  __device__ unsigned add(unsigned& to, unsigned value) const { return atomicAdd(&to, value); }
};

// float16 by the conversion instructions: exact, and to nearest, ties to even.
__device__ inline float widen_half(std::uint16_t x) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x));
  return wide;
}

__device__ inline std::uint16_t narrow_half(float x) {
  std::uint16_t narrow;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow) : "f"(x));
  return x != x ? std::uint16_t{0x7e00} : narrow;
}

}  // namespace
}  // namespace quoit
