#pragma once
// What every codec's loops begin with: the numbers that a Source stands for. See reduce_loops.h
// for why everything here has internal linkage.
#include "kernels/cast.h"
#include "kernels/codec_kernels.h"
#include "kernels/quantize.h"
#include "kernels/sign_format.h"

namespace quoit {
namespace {

void load_source(const Source& from, float* __restrict out) {
  if (from.carried) {
    for (std::size_t i = 0; i < from.count; ++i)
      out[i] = given(from.in[i], from.scale, from.carried[i], from.unit);
  } else {
    for (std::size_t i = 0; i < from.count; ++i) out[i] = given(from.in[i], from.scale);
  }
}

// One bit each, where sign_value() wants it.
struct SignBits {
  alignas(64) std::uint32_t at[kSignWord];
};

constexpr SignBits make_sign_bits() {
  SignBits bits{};
  for (unsigned i = 0; i < kSignWord; ++i) bits.at[i] = 1U << i;
  return bits;
}

constexpr SignBits kSignBit = make_sign_bits();

// Elements, 4 KiB: the CPU itself does not fetch across the end of a page, and waits there. Up to a
// fifth of the time; beyond the last element it is harmless.
inline constexpr std::size_t kAhead = 1024;

// A block from `at` on.
template <std::size_t kBlock>
void load_block(const Source& from, std::size_t at, float* __restrict p) {
  const float scale = from.scale, unit = from.unit;
  const float* const in = from.in + at;
  const float* const carried = from.carried ? from.carried + at : nullptr;
  for (std::size_t i = 0; i < kBlock; i += 16) {
    __builtin_prefetch(in + kAhead + i);
    if (carried) __builtin_prefetch(carried + kAhead + i, 1);
  }
  if (carried) {
    for (std::size_t i = 0; i < kBlock; ++i) p[i] = given(in[i], scale, carried[i], unit);
  } else {
    for (std::size_t i = 0; i < kBlock; ++i) p[i] = given(in[i], scale);
  }
}

// `count` elements from `begin` on.
Source part_of(const Source& from, std::size_t begin, std::size_t count) {
  Source part = from;
  part.in += begin;
  part.count = count;
  if (part.carried) part.carried += begin;
  if (part.residual) part.residual += begin;
  return part;
}

void add_floats(const float* __restrict from, float* __restrict into, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) into[i] += from[i];
}

template <float (*kWiden)(std::uint16_t)>
void widen(const std::uint16_t* __restrict in, float* __restrict out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = kWiden(in[i]);
}

template <std::uint16_t (*kNarrow)(float)>
void narrow(const float* __restrict in, std::uint16_t* __restrict out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = kNarrow(in[i]);
}

}  // namespace
}  // namespace quoit
