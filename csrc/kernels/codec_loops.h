#pragma once
// The loops of the codecs, written once and compiled once per instruction set: see reduce_loops.h
// for why everything here has internal linkage.
#include "kernels/cast.h"
#include "kernels/codec_kernels.h"

namespace quoit {
namespace {

void load_source(const Source& from, float* out) {
  if (from.carried) {
    for (std::size_t i = 0; i < from.count; ++i)
      out[i] = from.in[i] * from.scale + from.carried[i] * from.unit;
  } else {
    for (std::size_t i = 0; i < from.count; ++i) out[i] = from.in[i] * from.scale;
  }
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

constexpr CodecKernels kCodecKernels{
    .load = load_source,
    .add = add_floats,
    .from_bf16 = widen<float_from_bf16>,
    .to_bf16 = narrow<bf16_from_float>,
    .from_f16 = widen<float_from_f16>,
    .to_f16 = narrow<f16_from_float>,
};

}  // namespace
}  // namespace quoit
