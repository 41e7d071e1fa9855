#pragma once
// The formats of reduce(): how elements lie in memory (Stored, holding kGroup elements) and what
// they are accumulated in (Value). Internal linkage: see reduce_loops.h.
#include <type_traits>

#include "kernels/cast.h"

namespace quoit {
namespace {

// The formats of one element at a time; Lane is the type that an operation is told of.
template <class Stored_, class Value_>
struct Single {
  using Stored = Stored_;
  using Value = Value_;
  using Lane = Value_;
  static constexpr std::size_t kGroup = 1;
  template <class Op>
  QUOIT_HOST_DEVICE static Value combine(const Op& op, Value a, Value b) {
    return op.combine(a, b);
  }
};

template <class T>
struct Integer : Single<T, T> {
  template <class Op>
  QUOIT_HOST_DEVICE static T load(const Op& op, T x) {
    return op.on_load(x);
  }
  template <class Op>
  QUOIT_HOST_DEVICE static T store(const Op& op, T x) {
    return op.on_store(x);
  }
};

// One NaN for all: which operand's NaN survives an addition is up to the compiler.
template <class T>
struct Real : Single<T, T> {
  template <class Op>
  QUOIT_HOST_DEVICE static T load(const Op& op, T x) {
    return op.on_load(x);
  }
  template <class Op>
  QUOIT_HOST_DEVICE static T store(const Op& op, T x) {
    const T result = op.on_store(x);
    return result != result ? static_cast<T>(__builtin_nan("")) : result;
  }
};

struct Boolean : Single<std::uint8_t, std::uint8_t> {
  template <class Op>
  QUOIT_HOST_DEVICE static Value load(const Op&, Stored x) {
    return x != 0;
  }
  template <class Op>
  QUOIT_HOST_DEVICE static Stored store(const Op&, Value x) {
    return x;
  }
};

template <float (*kWiden)(std::uint16_t), std::uint16_t (*kNarrow)(float)>
struct Narrow : Single<std::uint16_t, float> {
  template <class Op>
  QUOIT_HOST_DEVICE static float load(const Op& op, std::uint16_t x) {
    return op.on_load(kWiden(x));
  }
  template <class Op>
  QUOIT_HOST_DEVICE static std::uint16_t store(const Op& op, float x) {
    return kNarrow(op.on_store(x));
  }
};

using BrainFloat = Narrow<float_from_bf16, bf16_from_float>;
using HalfFloat = Narrow<float_from_f16, f16_from_float>;

struct Two {
  float first;
  float second;
};

// Two 16-bit elements in a 32-bit word: every step stays in 32-bit lanes, so a vectorised loop
// never packs or unpacks.
template <class Element>
struct Pair {
  using Stored = std::uint32_t;
  using Value = Two;
  using Lane = float;
  using Rest = Element;
  static constexpr std::size_t kGroup = 2;
  template <class Op>
  QUOIT_HOST_DEVICE static Two load(const Op& op, std::uint32_t x) {
    return {Element::load(op, static_cast<std::uint16_t>(x)),
            Element::load(op, static_cast<std::uint16_t>(x >> 16))};
  }
  template <class Op>
  QUOIT_HOST_DEVICE static Two combine(const Op& op, Two a, Two b) {
    return {op.combine(a.first, b.first), op.combine(a.second, b.second)};
  }
  template <class Op>
  QUOIT_HOST_DEVICE static std::uint32_t store(const Op& op, Two x) {
    const std::uint32_t first = Element::store(op, x.first);
    const std::uint32_t second = Element::store(op, x.second);
    return first | second << 16;
  }
};

}  // namespace
}  // namespace quoit
