#pragma once
// float16 for reduce_loops.h by the F16C instructions, which compilers do not find by themselves.
// Gives the same bits as half_plain.h.
#include <immintrin.h>

#include "kernels/reduce_formats.h"

namespace quoit {
namespace {

struct Eight {
  __m256 lanes;
};

inline Eight operator+(Eight a, Eight b) { return {_mm256_add_ps(a.lanes, b.lanes)}; }
inline Eight operator*(Eight a, Eight b) { return {_mm256_mul_ps(a.lanes, b.lanes)}; }
inline Eight operator*(Eight a, float b) { return {_mm256_mul_ps(a.lanes, _mm256_set1_ps(b))}; }
inline Eight operator/(Eight a, float b) { return {_mm256_div_ps(a.lanes, _mm256_set1_ps(b))}; }
inline Eight operator-(Eight a) { return {_mm256_xor_ps(a.lanes, _mm256_set1_ps(-0.0F))}; }

// As for one float: the instruction yields its second operand for NaNs and for two zeros.
inline Eight smaller(Eight a, Eight b) {
  return {_mm256_or_ps(_mm256_min_ps(a.lanes, b.lanes), _mm256_min_ps(b.lanes, a.lanes))};
}

struct EightHalves {
  __m128i lanes;
};

struct Half {
  using Stored = EightHalves;
  using Value = Eight;
  using Lane = float;
  using Rest = HalfFloat;
  static constexpr std::size_t kGroup = 8;
  template <class Op>
  static Eight load(const Op& op, EightHalves x) {
    return op.on_load(Eight{_mm256_cvtph_ps(x.lanes)});
  }
  template <class Op>
  static Eight combine(const Op& op, Eight a, Eight b) {
    return op.combine(a, b);
  }
  template <class Op>
  static EightHalves store(const Op& op, Eight x) {
    const __m256 result = op.on_store(x).lanes;
    const __m256 nan = _mm256_set1_ps(__builtin_nanf(""));
    const __m256 is_nan = _mm256_cmp_ps(result, result, _CMP_UNORD_Q);
    return {_mm256_cvtps_ph(_mm256_blendv_ps(result, nan, is_nan), _MM_FROUND_TO_NEAREST_INT)};
  }
};

}  // namespace
}  // namespace quoit
