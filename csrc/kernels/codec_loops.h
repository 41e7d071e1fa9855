#pragma once
// The loops of the codecs, written once and compiled once per instruction set: see reduce_loops.h
// for why everything here has internal linkage.
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

constexpr CodecKernels kCodecKernels{.load = load_source, .add = add_floats};

}  // namespace
}  // namespace quoit
