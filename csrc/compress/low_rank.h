#pragma once
// A matrix as the product of two thin factors: M (rows x cols) is sent as M Q, or as M^T P, for a
// basis of r columns that all ranks hold alike, so that sums of factors are factors of the sum.
// ACP-SGD (Zhang et al., "Evaluation and Optimization of Gradient Compression for Distributed Deep
// Learning", 2023) takes turns: one all_reduce a step. PowerSGD (Vogels et al., "PowerSGD", 2019)
// sends both in one step, one after the other.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/low_rank_kernels.h"

namespace quoit {

// One matrix, row-major: a Part of a buffer that carries one of these is compressed by it, whatever
// its dtype, and must have a residual. Its codec, "raw", is that of the factors on the wire.
//
// The state belongs to the caller, lives as long as the calls that use it, may begin as zeros, and
// must be equal on all ranks, apart from residuals. A call changes it at its end, alike on all
// ranks. Where the sum of a factor is not finite, what comes out is not either, and neither bases
// nor residuals change, on any rank; only the turn goes on.
struct LowRank {
  enum class Method : std::uint8_t { Acp, PowerSgd };
  Method method = Method::Acp;
  std::size_t rank = 0;  // 1 to min(rows, cols)
  std::size_t rows = 0;
  std::size_t cols = 0;
  float* p = nullptr;            // rank columns of `rows` floats; PowerSGD needs none
  float* q = nullptr;            // rank columns of `cols` floats
  std::int64_t* turn = nullptr;  // calls so far; ACP: an even one sends P, an odd one Q
};

// "lowrank(rank=4)", "powersgd(rank=4)".
std::string name_of(const LowRank& matrix);

// The method and rank of such a name; nothing where it is of another form.
std::optional<LowRank> low_rank_named(std::string_view name);

// Replaces the columns by an orthonormal basis of what they span; columns that depend on others,
// zeros, and what is not finite, by random ones. Equal bits and keys give equal bits, on all
// instruction sets. What pads the columns must be zero.
void make_orthonormal(const LowRankKernels& kernels, const Factor& a, std::size_t rows,
                      std::uint64_t key);

}  // namespace quoit
