#pragma once
// The loops of the codecs, written once and compiled once per instruction set: see reduce_loops.h
// for why everything here has internal linkage.
#include "kernels/bf16_loops.h"
#include "kernels/fp8_loops.h"
#include "kernels/int4_loops.h"
#include "kernels/int8_loops.h"
#include "kernels/source_loops.h"

namespace quoit {
namespace {

constexpr CodecKernels kCodecKernels{
    .load = load_source,
    .add = add_floats,
    .bf16 = kTileKernels<Bf16Format<false>>,
    .bf16_stochastic = kTileKernels<Bf16Format<true>>,
    .fp8 = kTileKernels<Fp8Format>,
    .int8 = kTileKernels<Int8Format>,
    .int4 = kTileKernels<Int4Format>,
    .int4_hadamard = kTileKernels<Int4HadamardFormat>,
};

}  // namespace
}  // namespace quoit
