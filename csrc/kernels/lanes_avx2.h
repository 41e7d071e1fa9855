#pragma once
// Steps of the codecs over some 32 numbers, by instructions that compilers do not find by
// themselves. Gives the same bits as lanes_plain.h.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/butterfly.h"

namespace quoit {
namespace {

inline __m256i eight_of(const void* x) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(x));
}

// Bit 8 i + l: lane l of the i-th, of which each is 0 or -1.
inline std::uint32_t bit_of_each(const __m256i (&x)[4]) {
  // Both work in halves: 0 2 4 6, 1 3 5 7 in fours.
  const __m256i packed =
      _mm256_packs_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return static_cast<std::uint32_t>(
      _mm256_movemask_epi8(_mm256_permutevar8x32_epi32(packed, order)));
}

// Bit i: the magnitude x[i], or that of the float of such bits, is at least `least`, which is not
// 0.
inline std::uint32_t at_least_32(const std::int32_t* x, std::int32_t least) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff), below = _mm256_set1_epi32(least - 1);
  std::uint32_t bits = 0;
  for (unsigned i = 0; i < 32; i += 8) {
    const __m256i eight = _mm256_and_si256(eight_of(x + i), magnitude);
    const __m256 above = _mm256_castsi256_ps(_mm256_cmpgt_epi32(eight, below));
    bits |= static_cast<std::uint32_t>(_mm256_movemask_ps(above)) << i;
  }
  return bits;
}

// most[l]: the largest magnitude of x[l], x[l + 8], x[l + 16] and x[l + 24], the bits of floats.
inline void largest_of_32(const std::int32_t* x, std::int32_t* most) {
  __m256i eight = _mm256_setzero_si256();
  for (unsigned i = 0; i < 32; i += 8) {
    const __m256i magnitude = _mm256_and_si256(eight_of(x + i), _mm256_set1_epi32(0x7fffffff));
    eight = _mm256_max_epi32(eight, magnitude);
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(most), eight);
}

// out[i] = x[i] * factor to the nearest integer, ties to even, + offset. What does not fit a byte
// becomes some byte.
inline void codes_32(const float* x, float factor, std::int32_t offset, std::int8_t* out) {
  __m256i codes[4];
  for (unsigned i = 0; i < 4; ++i) {
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), _mm256_set1_ps(factor));
    codes[i] = _mm256_add_epi32(_mm256_cvtps_epi32(scaled), _mm256_set1_epi32(offset));
  }
  // Both work in halves: 0 2 4 6, 1 3 5 7 in fours.
  const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(codes[0], codes[1]),
                                            _mm256_packs_epi32(codes[2], codes[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutevar8x32_epi32(packed, order));
}

// most[l]: the largest of the magnitudes of x[l], x[l + 8], ... up to x[count - 1], as bits.
inline void largest_in_lanes(const float* x, std::size_t count, std::int32_t* most) {
  __m256i largest = _mm256_setzero_si256();
  for (std::size_t i = 0; i < count; i += 8) {
    const __m256i magnitude = _mm256_and_si256(eight_of(x + i), _mm256_set1_epi32(0x7fffffff));
    largest = _mm256_max_epi32(largest, magnitude);
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(most), largest);
}

// The same of the numbers that are positive, and of those that are negative; not above 0 where
// there is none.
inline void range_in_lanes(const float* x, std::size_t count, std::int32_t* above,
                           std::int32_t* below) {
  // As integers with a sign, the largest positive number is the largest; as those without, the most
  // negative one.
  __m256i up = _mm256_setzero_si256(), down = _mm256_setzero_si256();
  for (std::size_t i = 0; i < count; i += 8) {
    const __m256i bits = eight_of(x + i);
    up = _mm256_max_epi32(up, bits);
    down = _mm256_max_epu32(down, bits);
  }
  const __m256i sign = _mm256_set1_epi32(INT32_MIN);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(above), up);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(below), _mm256_xor_si256(down, sign));
}

// out[r]: the largest of row r, of eight rows of eight.
inline void largest_of_rows(const std::int32_t* rows, std::int32_t* out) {
  const auto halves = [](__m256i a, __m256i b) {
    return _mm256_max_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  };
  const auto quarters = [](__m256i a, __m256i b) {
    return _mm256_max_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
  };
  __m256i pairs[4];
  for (unsigned r = 0; r < 4; ++r)
    pairs[r] = halves(eight_of(rows + 16 * r), eight_of(rows + 16 * r + 8));
  const __m256i a = quarters(pairs[0], pairs[1]), b = quarters(pairs[2], pairs[3]);
  const __m256i most = _mm256_max_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                                        _mm256_permute2x128_si256(a, b, 0x31));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), most);
}

// A sum of magnitudes in 16 lanes: lane l has those of the elements l, l + 16, ... In the end, the
// upper half is added to the lower one until one is left.
struct Magnitudes {
  __m256 low = _mm256_setzero_ps();
  __m256 high = _mm256_setzero_ps();

  // 16 more.
  void add(__m256 x, __m256 y) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    low = _mm256_add_ps(low, _mm256_and_ps(x, magnitude));
    high = _mm256_add_ps(high, _mm256_and_ps(y, magnitude));
  }
  [[nodiscard]] float total() const {
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
};

// p[i] = in[i] * scale + carried[i] * unit for 32 of them, where kCarried, and else without the
// second part. Adds them to `sum`, and stores them where kKeep. Returns which are below 0.
template <bool kCarried, bool kKeep>
std::uint32_t signs_32(const float* in, float scale, const float* carried, float unit, float* p,
                       Magnitudes& sum) {
  __m256 x[4];
  __m256i below[4];
  for (unsigned i = 0; i < 4; ++i) {
    x[i] = _mm256_mul_ps(_mm256_loadu_ps(in + 8 * i), _mm256_set1_ps(scale));
    if constexpr (kCarried) {
      const __m256 more = _mm256_mul_ps(_mm256_loadu_ps(carried + 8 * i), _mm256_set1_ps(unit));
      x[i] = _mm256_add_ps(x[i], more);
    }
    if constexpr (kKeep) _mm256_storeu_ps(p + 8 * i, x[i]);
    below[i] = _mm256_castps_si256(_mm256_cmp_ps(x[i], _mm256_setzero_ps(), _CMP_LT_OQ));
  }
  sum.add(x[0], x[1]);
  sum.add(x[2], x[3]);
  return bit_of_each(below);
}

// The butterflies of strides 1, 2 and 4.
inline void short_butterflies(float* x) {
  const __m256 odd = _mm256_setr_ps(0.0F, -0.0F, 0.0F, -0.0F, 0.0F, -0.0F, 0.0F, -0.0F);
  const __m256 upper_two = _mm256_setr_ps(0.0F, 0.0F, -0.0F, -0.0F, 0.0F, 0.0F, -0.0F, -0.0F);
  const __m256 upper_four = _mm256_setr_ps(0.0F, 0.0F, 0.0F, 0.0F, -0.0F, -0.0F, -0.0F, -0.0F);
  for (std::size_t i = 0; i < kButterflies; i += 8) {
    __m256 a = _mm256_loadu_ps(x + i);
    a = _mm256_add_ps(_mm256_permute_ps(a, 0xb1), _mm256_xor_ps(a, odd));
    a = _mm256_add_ps(_mm256_permute_ps(a, 0x4e), _mm256_xor_ps(a, upper_two));
    a = _mm256_add_ps(_mm256_permute2f128_ps(a, a, 0x01), _mm256_xor_ps(a, upper_four));
    _mm256_storeu_ps(x + i, a);
  }
}

}  // namespace
}  // namespace quoit
