#pragma once
// The loops of the codecs, written once and compiled once per instruction set: see reduce_loops.h
// for why everything here has internal linkage. Include lanes_plain.h or lanes_avx2.h first.
#include "kernels/bf16_loops.h"
#include "kernels/fp8_loops.h"
#include "kernels/int4_loops.h"
#include "kernels/int8_loops.h"
#include "kernels/low_rank_loops.h"
#include "kernels/sign_loops.h"
#include "kernels/source_loops.h"
#include "kernels/topk_loops.h"

namespace quoit {
namespace {

constexpr CodecKernels kCodecKernels{
    .load = load_source,
    .add = add_floats,
    .from_bf16 = widen<float_from_bf16>,
    .to_bf16 = narrow<bf16_from_float>,
    .from_f16 = widen<float_from_f16>,
    .to_f16 = narrow<f16_from_float>,
    .bf16 = kTileKernels<Bf16Format<false>>,
    .bf16_stochastic = kTileKernels<Bf16Format<true>>,
    .fp8 = kTileKernels<Fp8Format>,
    .int8 = kTileKernels<Int8Format>,
    .int4 = kTileKernels<Int4Format>,
    .int4_hadamard = kTileKernels<Int4HadamardFormat>,
    .sign = kSignKernels,
    .topk = kTopKKernels,
    .low_rank = kLowRankKernels,
};

}  // namespace
}  // namespace quoit
