#pragma once
// The loops of the codecs, written once and compiled once per instruction set: see reduce_loops.h
// for why everything here has internal linkage.
#include "kernels/codec_kernels.h"
#include "kernels/int8_loops.h"

namespace quoit {
namespace {

// What is read from `from` is copied first: a float that is written might be a part of it.
void load_source(const Source& from, float* __restrict out) {
  const std::size_t count = from.count;
  const float scale = from.scale, unit = from.unit;
  const float *const in = from.in, *const carried = from.carried;
  if (carried) {
    for (std::size_t i = 0; i < count; ++i) out[i] = in[i] * scale + carried[i] * unit;
  } else {
    for (std::size_t i = 0; i < count; ++i) out[i] = in[i] * scale;
  }
}

void add_floats(const float* __restrict from, float* __restrict into, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) into[i] += from[i];
}

constexpr CodecKernels kCodecKernels{
    .load = load_source,
    .add = add_floats,
    .int8 = kTileKernels<Int8Format>,
};

}  // namespace
}  // namespace quoit
