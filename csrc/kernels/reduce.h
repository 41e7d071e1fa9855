#pragma once
// Element-wise reductions. Vectorised, with the instruction set picked once at run time; every
// instruction set gives the same bits.
#include <span>
#include <string_view>

#include "core/types.h"

namespace quoit {

// How `reduce` combines its inputs. `factor` and `divide_by` are converted to the type that the
// elements are accumulated in.
struct ReduceStep {
  ReduceOp op = ReduceOp::Sum;
  double factor = 1.0;          // PremulSum: multiplies every input as it is read; 1 otherwise
  std::uint64_t divide_by = 1;  // Avg: divides the result, once, when the last input is in
};

// Throws UsageError when `op` has no meaning for `dtype` (bit operations on floats, AVG or
// PREMUL_SUM of bool, PREMUL_SUM of integers, anything on float8).
void check_reducible(DType dtype, ReduceOp op);

// out[i] = in[0][i] op in[1][i] op ... in the given order, for i < count. float16 and bfloat16 are
// accumulated in float32 over all inputs and rounded once, to nearest even. `also`, unless null,
// receives the same elements (a second destination written in the same pass).
// `out` may be one of the inputs; otherwise nothing may overlap. At least one input; pointers need
// no alignment. MIN and MAX propagate NaN and take -0 to be below +0. A NaN result is always the
// same quiet NaN (positive, no payload), even of a single input. Integers wrap; AVG of integers
// truncates towards zero. On bool, any byte but 0 is true and results are 0 or 1; SUM and MAX are
// OR, PRODUCT and MIN are AND. Throws UsageError without inputs, for a `divide_by` of 0, and as
// check_reducible does.
void reduce(DType dtype, const ReduceStep& step, std::span<const std::byte* const> in,
            std::byte* out, std::byte* also, std::size_t count);

// The instruction sets compiled in, worst first; `reduce` uses the best that this CPU has, or for
// what is short the best but AVX-512.
enum class Isa : std::uint8_t { Baseline, X86V3, X86V4 };
bool isa_available(Isa isa);
Isa isa_in_use();
std::string_view name_of(Isa isa);

// As `reduce`, on a chosen instruction set (tests and benchmarks). Throws UnavailableError when
// this build or CPU lacks it.
void reduce_on(Isa isa, DType dtype, const ReduceStep& step, std::span<const std::byte* const> in,
               std::byte* out, std::byte* also, std::size_t count);

}  // namespace quoit
