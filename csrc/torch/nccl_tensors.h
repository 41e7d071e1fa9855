#pragma once
// Contiguous tensors as NCCL moves them: as bytes, which serves every dtype.
#include <ATen/ATen.h>

#include <vector>

#include "transport/nccl_abi.h"

namespace quoit {

inline constexpr NcclType kNcclByte = NcclType::UInt8;

std::size_t nccl_bytes(const at::Tensor& tensor);

// The same memory, in one dimension.
at::Tensor as_bytes(const at::Tensor& contiguous);

// The i-th of `n` equal pieces of bytes.
at::Tensor piece_of(const at::Tensor& bytes, std::int64_t n, std::int64_t i);

// Parts of contiguous memory along dimension 0, in bytes; equal ones when there are no splits.
std::vector<at::Tensor> split_bytes(const at::Tensor& tensor, const std::vector<int64_t>& splits,
                                    std::int64_t parts, const char* what);

bool all_alike(const std::vector<at::Tensor>& tensors);

// Throw UsageError unless there is a tensor for each rank, and unless `to` holds `parts` of `from`.
void check_list(const std::vector<at::Tensor>& list, int size, const char* what);
void check_fits(const at::Tensor& from, const at::Tensor& to, std::int64_t parts, const char* what);

}  // namespace quoit
