#pragma once
// Steps of the codecs over some 32 numbers, for every CPU; lanes_avx2.h is the other choice and
// gives the same bits.
#include "kernels/butterfly.h"
#include "kernels/quantize.h"

namespace quoit {
namespace {

// Bit i: the magnitude x[i], or that of the float of such bits, is at least `least`, which is not
// 0.
inline std::uint32_t at_least_32(const std::int32_t* x, std::int32_t least) {
  std::uint32_t bits = 0;
  for (unsigned i = 0; i < 32; ++i)
    bits |= static_cast<std::uint32_t>((x[i] & 0x7fffffff) >= least) << i;
  return bits;
}

// most[l]: the largest magnitude of x[l], x[l + 8], x[l + 16] and x[l + 24], the bits of floats.
inline void largest_of_32(const std::int32_t* x, std::int32_t* most) {
  for (unsigned l = 0; l < 8; ++l) {
    std::int32_t largest = 0;
    for (unsigned i = l; i < 32; i += 8) {
      const std::int32_t magnitude = x[i] & 0x7fffffff;
      largest = magnitude > largest ? magnitude : largest;
    }
    most[l] = largest;
  }
}

// out[i] = x[i] * factor to the nearest integer, ties to even, + offset. What does not fit a byte
// becomes some byte.
inline void codes_32(const float* x, float factor, std::int32_t offset, std::int8_t* out) {
  for (unsigned i = 0; i < 32; ++i)
    out[i] = static_cast<std::int8_t>(rounded(x[i] * factor) + offset);
}

// most[l]: the largest of the magnitudes of x[l], x[l + 8], ... up to x[count - 1], as bits.
inline void largest_in_lanes(const float* x, std::size_t count, std::int32_t* most) {
  for (unsigned l = 0; l < 8; ++l) most[l] = 0;
  for (std::size_t i = 0; i < count; i += 8) {
    for (unsigned l = 0; l < 8; ++l) {
      const std::int32_t magnitude = magnitude_of(x[i + l]);
      most[l] = magnitude > most[l] ? magnitude : most[l];
    }
  }
}

// The same of the numbers that are positive, and of those that are negative; not above 0 where
// there is none.
inline void range_in_lanes(const float* x, std::size_t count, std::int32_t* above,
                           std::int32_t* below) {
  for (unsigned l = 0; l < 8; ++l) above[l] = below[l] = 0;
  for (std::size_t i = 0; i < count; i += 8) {
    for (unsigned l = 0; l < 8; ++l) {
      const std::int32_t up = above_zero(x[i + l]), down = below_zero(x[i + l]);
      above[l] = up > above[l] ? up : above[l];
      below[l] = down > below[l] ? down : below[l];
    }
  }
}

// out[r]: the largest of row r, of eight rows of eight.
inline void largest_of_rows(const std::int32_t* rows, std::int32_t* out) {
  for (unsigned r = 0; r < 8; ++r) {
    std::int32_t most = rows[8 * r];
    for (unsigned l = 1; l < 8; ++l) most = rows[8 * r + l] > most ? rows[8 * r + l] : most;
    out[r] = most;
  }
}

// A sum of magnitudes in 16 lanes: lane l has those of the elements l, l + 16, ... In the end, the
// upper half is added to the lower one until one is left.
struct Magnitudes {
  alignas(64) float lanes[16] = {};

  // 16 more.
  void add(const float* x) {
    for (unsigned l = 0; l < 16; ++l) lanes[l] += __builtin_fabsf(x[l]);
  }
  [[nodiscard]] float total() {
    for (unsigned half = 8; half > 0; half /= 2) {
      for (unsigned l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    }
    return lanes[0];
  }
};

// p[i] = in[i] * scale + carried[i] * unit for 32 of them, where kCarried, and else without the
// second part. Adds them to `sum`, and stores them where kKeep. Returns which are below 0.
template <bool kCarried, bool kKeep>
std::uint32_t signs_32(const float* in, float scale, const float* carried, float unit, float* p,
                       Magnitudes& sum) {
  alignas(64) float x[32];
  for (unsigned i = 0; i < 32; ++i) {
    x[i] = in[i] * scale;
    if constexpr (kCarried) x[i] += carried[i] * unit;
    if constexpr (kKeep) p[i] = x[i];
  }
  sum.add(x);
  sum.add(x + 16);
  std::uint32_t bits = 0;
  for (unsigned i = 0; i < 32; ++i) bits |= static_cast<std::uint32_t>(x[i] < 0) << i;
  return bits;
}

// The butterflies of strides 1, 2 and 4.
inline void short_butterflies(float* x) {
  butterfly<1>(x);
  butterfly<2>(x);
  butterfly<4>(x);
}

}  // namespace
}  // namespace quoit
