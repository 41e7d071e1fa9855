#pragma once
// float16 for reduce_loops.h where the CPU may have no instructions for it; half_f16c.h is the
// other choice and gives the same bits.
#include "kernels/reduce_formats.h"

namespace quoit {
namespace {

using Half = Pair<HalfFloat>;

}  // namespace
}  // namespace quoit
