#pragma once
// The operations of reduce() on values: on_load sees each input, combine two of them in order,
// on_store the result. A value is a number or a group of floats. Internal linkage: see
// reduce_loops.h.
#include <type_traits>

#include "kernels/device.h"
#include "kernels/kernel_table.h"

namespace quoit {
namespace {

// Integers are computed unsigned, and no narrower than int, so that they wrap.
template <class V>
QUOIT_HOST_DEVICE constexpr auto wrapping(V x) {
  if constexpr (!std::is_integral_v<V>) {
    return x;
  } else if constexpr (sizeof(V) <= 4) {
    return static_cast<std::uint32_t>(x);
  } else {
    return static_cast<std::uint64_t>(x);
  }
}

QUOIT_HOST_DEVICE inline float or_bits(float a, float b) {
  return __builtin_bit_cast(
      float, __builtin_bit_cast(std::uint32_t, a) | __builtin_bit_cast(std::uint32_t, b));
}
QUOIT_HOST_DEVICE inline double or_bits(double a, double b) {
  return __builtin_bit_cast(
      double, __builtin_bit_cast(std::uint64_t, a) | __builtin_bit_cast(std::uint64_t, b));
}

// Of two floats the OR of both orders of comparison: the smaller where they differ, -0 where zeros
// of both signs meet, NaN where either is one. So the order of the inputs never shows.
QUOIT_HOST_DEVICE inline float smaller(float a, float b) {
  return or_bits(a < b ? a : b, b < a ? b : a);
}
QUOIT_HOST_DEVICE inline double smaller(double a, double b) {
  return or_bits(a < b ? a : b, b < a ? b : a);
}

template <class T>
struct Untouched {
  explicit Untouched(const KernelCall&) {}
  template <class V>
  QUOIT_HOST_DEVICE V on_load(V x) const {
    return x;
  }
  template <class V>
  QUOIT_HOST_DEVICE V on_store(V x) const {
    return x;
  }
};

template <class T>
struct Sum : Untouched<T> {
  using Untouched<T>::Untouched;
  template <class V>
  QUOIT_HOST_DEVICE V combine(V a, V b) const {
    return static_cast<V>(wrapping(a) + wrapping(b));
  }
};

template <class T>
struct Product : Untouched<T> {
  using Untouched<T>::Untouched;
  template <class V>
  QUOIT_HOST_DEVICE V combine(V a, V b) const {
    return static_cast<V>(wrapping(a) * wrapping(b));
  }
};

template <class T>
struct Min : Untouched<T> {
  using Untouched<T>::Untouched;
  template <class V>
  QUOIT_HOST_DEVICE V combine(V a, V b) const {
    if constexpr (std::is_integral_v<V>) {
      return a < b ? a : b;
    } else {
      return smaller(a, b);
    }
  }
};

template <class T>
struct Max : Untouched<T> {
  using Untouched<T>::Untouched;
  template <class V>
  QUOIT_HOST_DEVICE V combine(V a, V b) const {
    if constexpr (std::is_integral_v<V>) {
      return a > b ? a : b;
    } else {
      return -smaller(-a, -b);
    }
  }
};

template <class T>
struct BitAnd : Untouched<T> {
  using Untouched<T>::Untouched;
  QUOIT_HOST_DEVICE T combine(T a, T b) const { return static_cast<T>(a & b); }
};

template <class T>
struct BitOr : Untouched<T> {
  using Untouched<T>::Untouched;
  QUOIT_HOST_DEVICE T combine(T a, T b) const { return static_cast<T>(a | b); }
};

template <class T>
struct BitXor : Untouched<T> {
  using Untouched<T>::Untouched;
  QUOIT_HOST_DEVICE T combine(T a, T b) const { return static_cast<T>(a ^ b); }
};

template <class T>
struct PremulSum : Sum<T> {
  explicit PremulSum(const KernelCall& call) : Sum<T>(call), factor(static_cast<T>(call.factor)) {}
  template <class V>
  QUOIT_HOST_DEVICE V on_load(V x) const {
    return x * factor;
  }
  T factor;
};

template <class T>
struct Average : Sum<T> {
  explicit Average(const KernelCall& call)
      : Sum<T>(call), divisor(static_cast<T>(call.divide_by)) {}
  template <class V>
  QUOIT_HOST_DEVICE V on_store(V x) const {
    return x / divisor;
  }
  T divisor;
};

// Integers of up to 32 bits are divided as floating-point numbers that hold them exactly, which
// vectorises: a quotient that is no integer is too far from the next one, by 1 / divisor, to be
// rounded to it. Wider ones go by magnitude, for a divisor may exceed every signed integer.
template <class T>
struct IntegerAverage : Sum<T> {
  using Divisor = std::conditional_t<sizeof(T) <= 2, float,
                                     std::conditional_t<sizeof(T) == 4, double, std::uint64_t>>;
  explicit IntegerAverage(const KernelCall& call)
      : Sum<T>(call), divisor(static_cast<Divisor>(call.divide_by)) {}
  QUOIT_HOST_DEVICE T on_store(T x) const {
    if constexpr (sizeof(T) <= 4) {
      return static_cast<T>(static_cast<Divisor>(x) / divisor);
    } else {
      bool negative = false;
      if constexpr (std::is_signed_v<T>) negative = x < 0;
      const std::uint64_t magnitude = negative ? -wrapping(x) : wrapping(x);
      const std::uint64_t quotient = magnitude / divisor;
      return static_cast<T>(negative ? -quotient : quotient);
    }
  }
  Divisor divisor;
};

}  // namespace
}  // namespace quoit
