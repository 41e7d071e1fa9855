#pragma once
// What NCCL computes, of what torch can ask for.
#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include "core/types.h"
#include "transport/nccl_abi.h"

namespace quoit {

struct NcclReduction {
  NcclType type = NcclType::Float32;
  NcclOp op = kNcclSum;
  bool premultiplied = false;  // PREMUL_SUM: `op` is made for each call, with this factor
  double factor = 1;
  bool divide = false;  // AVG of integers: a sum, then a division that truncates, as on the CPU
};

// Throws UsageError for what has no meaning, and for what NCCL does not have.
NcclReduction nccl_reduction(const c10d::ReduceOp& op, const at::Tensor& tensor);

// Why NCCL cannot reduce this, though it has a meaning; empty if it can.
std::string nccl_lacks(const c10d::ReduceOp& op, const at::Tensor& tensor);

// Elements for NCCL: complex numbers are pairs.
std::size_t nccl_count(const at::Tensor& tensor);

// The factor in the tensor's own type, for ncclRedOpCreatePreMulSum.
std::array<std::byte, 8> nccl_factor(const NcclReduction& reduction);

}  // namespace quoit
