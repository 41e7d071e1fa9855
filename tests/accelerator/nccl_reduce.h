#pragma once
// Reductions of the fake NCCL: the inputs of all ranks in rank order, in a wider type, rounded
// once.

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

namespace fakenccl {

enum Type {
  kInt8,
  kUint8,
  kInt32,
  kUint32,
  kInt64,
  kUint64,
  kHalf,
  kFloat,
  kDouble,
  kBfloat16,
  kE4m3,
  kE5m2
};
enum Reduction { kSum, kProd, kMax, kMin, kAvg, kReductions };

constexpr std::array<size_t, 12> kBytes{1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};

// What each input is multiplied by before the sum; null: nothing.
using Scale = const void*;

struct Bfloat16 {
  uint16_t bits;
};

// exponent bits, bias and the largest finite code of an 8-bit float
template <int Exponent, int Bias, int Largest>
struct Float8 {
  uint8_t bits;
};
using E4m3 = Float8<4, 7, 0x7e>;
using E5m2 = Float8<5, 15, 0x7b>;

inline int64_t widen(int8_t value) { return value; }
inline int64_t widen(int32_t value) { return value; }
inline int64_t widen(int64_t value) { return value; }
inline uint64_t widen(uint8_t value) { return value; }
inline uint64_t widen(uint32_t value) { return value; }
inline uint64_t widen(uint64_t value) { return value; }
inline float widen(_Float16 value) { return static_cast<float>(value); }
inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(Bfloat16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}
template <int Exponent, int Bias, int Largest>
float widen(Float8<Exponent, Bias, Largest> value) {
  constexpr int kMantissa = 7 - Exponent;
  const int code = value.bits & 0x7f, exponent = code >> kMantissa;
  const int mantissa = code & ((1 << kMantissa) - 1);
  float size = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), 1 - Bias - kMantissa)
                             : std::ldexp(static_cast<float>(mantissa + (1 << kMantissa)),
                                          exponent - Bias - kMantissa);
  if (code > Largest) size = Exponent == 5 && mantissa == 0 ? INFINITY : NAN;
  return value.bits & 0x80 ? -size : size;
}

template <class T, class Wide>
void narrow(Wide value, T& to) {
  to = static_cast<T>(value);
}
inline void narrow(float value, Bfloat16& to) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const bool nan = std::isnan(value);
  to.bits = static_cast<uint16_t>(nan ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
// The nearest code, the even one of two; beyond the largest, the largest.
template <int Exponent, int Bias, int Largest>
void narrow(float value, Float8<Exponent, Bias, Largest>& to) {
  const float size = std::fabs(value);
  to.bits = std::isnan(value) ? 0x7f : 0;
  for (int code = 1; code <= Largest && !std::isnan(value); ++code) {
    const float now = widen(to),
                next = widen(Float8<Exponent, Bias, Largest>{static_cast<uint8_t>(code)});
    const float gain = std::fabs(size - now) - std::fabs(size - next);
    if (gain > 0 || (gain == 0 && code % 2 == 0)) to.bits = static_cast<uint8_t>(code);
  }
  if (std::signbit(value)) to.bits |= 0x80;
}

template <class T>
void reduce_as(Reduction reduction, Scale scale, const std::vector<const void*>& inputs, void* out,
               size_t count) {
  const auto at = [&](size_t rank, size_t i) {
    auto value = widen(static_cast<const T*>(inputs[rank])[i]);
    return scale == nullptr ? value : value * widen(*static_cast<const T*>(scale));
  };
  for (size_t i = 0; i < count; ++i) {
    auto total = at(0, i);
    for (size_t rank = 1; rank < inputs.size(); ++rank) {
      const auto value = at(rank, i);
      if (reduction == kProd) {
        total *= value;
      } else if (reduction == kMax) {
        total = value > total ? value : total;
      } else if (reduction == kMin) {
        total = value < total ? value : total;
      } else {
        total += value;
      }
    }
    if (reduction == kAvg) total /= static_cast<decltype(total)>(inputs.size());
    narrow(total, static_cast<T*>(out)[i]);
  }
}

// out may be one of the inputs.
inline void reduce(Type type, Reduction reduction, Scale scale,
                   const std::vector<const void*>& inputs, void* out, size_t count) {
  using Reduce = void (*)(Reduction, Scale, const std::vector<const void*>&, void*, size_t);
  constexpr std::array<Reduce, 12> kReduce{
      reduce_as<int8_t>,  reduce_as<uint8_t>,  reduce_as<int32_t>,  reduce_as<uint32_t>,
      reduce_as<int64_t>, reduce_as<uint64_t>, reduce_as<_Float16>, reduce_as<float>,
      reduce_as<double>,  reduce_as<Bfloat16>, reduce_as<E4m3>,     reduce_as<E5m2>};
  kReduce.at(type)(reduction, scale, inputs, out, count);
}

}  // namespace fakenccl
