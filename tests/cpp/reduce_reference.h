#pragma once
// What a reduction should give, one element at a time and by other means than csrc/kernels: 16-bit
// formats by their definition, integers in 128 bits. Elements are bits at the low end of a word.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/reduce.h"

namespace quoit {

template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// A binary floating-point format as IEEE 754 describes it.
struct Format {
  int mantissa;
  int bias;
  [[nodiscard]] std::uint64_t infinity() const { return std::uint64_t(2 * bias + 1) << mantissa; }
  [[nodiscard]] std::uint64_t nan() const { return infinity() | (1ULL << (mantissa - 1)); }
  [[nodiscard]] std::uint64_t sign() const { return 1ULL << (mantissa + (bias == 15 ? 5 : 8)); }
};
inline constexpr Format kHalf{10, 15};
inline constexpr Format kBrain{7, 127};

inline double widen(Format format, std::uint64_t bits) {
  const std::uint64_t magnitude = bits & (format.sign() - 1);
  const int exponent = static_cast<int>(magnitude >> format.mantissa);
  const auto fraction = static_cast<double>(magnitude & ((1ULL << format.mantissa) - 1));
  double value = std::ldexp(fraction, 1 - format.bias - format.mantissa);
  if (exponent > 0) {
    value = std::ldexp(std::ldexp(1.0, format.mantissa) + fraction,
                       exponent - format.bias - format.mantissa);
  }
  if (magnitude == format.infinity()) value = std::numeric_limits<double>::infinity();
  if (magnitude > format.infinity()) value = std::numeric_limits<double>::quiet_NaN();
  return bits & format.sign() ? -value : value;
}

inline std::uint64_t narrow(Format format, double x) {
  if (std::isnan(x)) return format.nan();
  const std::uint64_t sign = std::signbit(x) ? format.sign() : 0;
  const double magnitude = std::fabs(x);
  const double beyond = std::ldexp(2.0 - std::ldexp(1.0, -format.mantissa - 1), format.bias);
  if (magnitude >= beyond) return sign | format.infinity();
  const int exponent = magnitude == 0 ? -2000 : std::ilogb(magnitude);
  const int grid = std::max(exponent, 1 - format.bias) - format.mantissa;
  // Steps of the grid count through the encodings: each binade starts where the one below ended.
  const auto steps = static_cast<std::uint64_t>(std::nearbyint(std::ldexp(magnitude, -grid)));
  const auto binades = static_cast<std::uint64_t>(grid + format.mantissa + format.bias - 1);
  return sign | (steps + (binades << format.mantissa));
}

template <class T>
T reference_real(const ReduceStep& step, const std::vector<T>& in) {
  const auto lower = [](T a, T b) {
    if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<T>::quiet_NaN();
    if (a == b) return std::signbit(a) ? a : b;
    return a < b ? a : b;
  };
  const T factor = step.op == ReduceOp::PremulSum ? static_cast<T>(step.factor) : T(1);
  T result = in[0] * factor;
  for (std::size_t k = 1; k < in.size(); ++k) {
    const T x = in[k] * factor;
    switch (step.op) {
      case ReduceOp::Product:
        result = result * x;
        break;
      case ReduceOp::Min:
        result = lower(result, x);
        break;
      case ReduceOp::Max:
        result = -lower(-result, -x);
        break;
      default:
        result = result + x;
    }
  }
  return step.op == ReduceOp::Avg ? result / static_cast<T>(step.divide_by) : result;
}

__extension__ using Wide = __int128;

inline Wide wrap(Wide x, int bits, bool is_signed) {
  const Wide size = Wide(1) << bits;
  x = ((x % size) + size) % size;
  return is_signed && x >= size / 2 ? x - size : x;
}

inline Wide reference_integer(const ReduceStep& step, const std::vector<Wide>& in, int bits,
                              bool is_signed) {
  Wide result = in[0];
  for (std::size_t k = 1; k < in.size(); ++k) {
    switch (step.op) {
      case ReduceOp::Product:
        result = wrap(result, 64, true) * wrap(in[k], 64, true);
        break;
      case ReduceOp::Min:
        result = std::min(result, in[k]);
        break;
      case ReduceOp::Max:
        result = std::max(result, in[k]);
        break;
      case ReduceOp::Band:
        result &= in[k];
        break;
      case ReduceOp::Bor:
        result |= in[k];
        break;
      case ReduceOp::Bxor:
        result ^= in[k];
        break;
      default:
        result += in[k];
    }
    result = wrap(result, bits, is_signed);
  }
  return step.op == ReduceOp::Avg ? result / Wide(step.divide_by) : result;
}

inline bool reference_bool(ReduceOp op, const std::vector<std::uint64_t>& in) {
  std::size_t trues = 0;
  for (const std::uint64_t x : in) trues += x != 0;
  if (op == ReduceOp::Bxor) return trues % 2 == 1;
  const bool all = op == ReduceOp::Product || op == ReduceOp::Min || op == ReduceOp::Band;
  return all ? trues == in.size() : trues > 0;
}

inline bool is_signed(DType dtype) { return dtype >= DType::Int8 && dtype <= DType::Int64; }

inline std::uint64_t reference(DType dtype, const ReduceStep& step,
                               const std::vector<std::uint64_t>& in) {
  if (dtype == DType::Bool) return reference_bool(step.op, in);
  if (dtype == DType::Float64) {
    std::vector<double> values;
    for (const std::uint64_t x : in) values.push_back(bits_as<double>(x));
    const double result = reference_real(step, values);
    return std::isnan(result) ? 0x7ff8000000000000 : bits_as<std::uint64_t>(result);
  }
  if (dtype < DType::Float8) {
    std::vector<float> values;
    for (const std::uint64_t x : in) {
      values.push_back(dtype == DType::Float32 ? bits_as<float>(static_cast<std::uint32_t>(x))
                                               : static_cast<float>(widen(
                                                     dtype == DType::Float16 ? kHalf : kBrain, x)));
    }
    const float result = reference_real(step, values);
    if (dtype == DType::Float16) return narrow(kHalf, result);
    if (dtype == DType::BFloat16) return narrow(kBrain, result);
    return std::isnan(result) ? 0x7fc00000 : bits_as<std::uint32_t>(result);
  }
  const int bits = static_cast<int>(8 * size_of(dtype));
  std::vector<Wide> values;
  for (const std::uint64_t x : in) values.push_back(wrap(Wide(x), bits, is_signed(dtype)));
  return static_cast<std::uint64_t>(reference_integer(step, values, bits, is_signed(dtype)));
}

inline bool reference_supports(DType dtype, ReduceOp op) {
  const bool bitwise = op == ReduceOp::Band || op == ReduceOp::Bor || op == ReduceOp::Bxor;
  if (dtype == DType::Float8) return false;
  if (dtype < DType::Float8) return !bitwise;
  if (op == ReduceOp::PremulSum) return false;
  return dtype != DType::Bool || op != ReduceOp::Avg;
}

}  // namespace quoit
