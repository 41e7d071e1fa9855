#pragma once
// What torch asks to be computed, in quoit's words.
#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include "core/types.h"

namespace quoit {

// Throws UsageError for what has no meaning for such a tensor.
ReduceOp op_of(const c10d::ReduceOp& op, const at::Tensor& tensor);

// The same, with PREMUL_SUM's factor: waits for the device that has it.
Reduction reduction_of(const c10d::ReduceOp& op, const at::Tensor& tensor);

}  // namespace quoit
