#pragma once
// The loops of the codecs, written once and compiled once per instruction set: see reduce_loops.h
// for why everything here has internal linkage. Include lanes_plain.h or lanes_avx2.h first.
#include "kernels/sign_loops.h"
#include "kernels/source_loops.h"

namespace quoit {
namespace {

constexpr CodecKernels kCodecKernels{
    .load = load_source,
    .add = add_floats,
    .sign = kSignKernels,
};

}  // namespace
}  // namespace quoit
