#pragma once
// torch's storages in memory that the other ranks of the host can read in place.
#include <ATen/ATen.h>

namespace quoit {

// An uninitialized tensor of one dimension; its storage can be resized, as torch's own can. Throws
// UnavailableError when the system has no memory.
at::Tensor tensor_in_arena(std::int64_t size, at::TensorOptions options);

}  // namespace quoit
