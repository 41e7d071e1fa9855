#pragma once
// The loops of the codecs, written once and compiled once per instruction set: see reduce_loops.h
// for why everything here has internal linkage.
#include "kernels/int8_loops.h"
#include "kernels/source_loops.h"

namespace quoit {
namespace {

constexpr CodecKernels kCodecKernels{
    .load = load_source,
    .add = add_floats,
    .int8 = kTileKernels<Int8Format>,
};

}  // namespace
}  // namespace quoit
