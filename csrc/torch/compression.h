#pragma once
// Compressed collectives of tensors: what torch.distributed has no call for, reached through
// quoit._c10d and used by python/quoit/compression.py.
#include <ATen/ATen.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "collective/compressed.h"

namespace quoit {

// One tensor of a buffer, as Python describes it.
struct PartOfTensor {
  std::int64_t count;
  std::string codec;
  // float32[count]; this and the others contiguous, and on one device, but for the turn
  std::optional<at::Tensor> residual;
  // Of a low-rank codec, which needs a residual too: see compress/low_rank.h.
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::optional<at::Tensor> p;     // float32[rank * rows]
  std::optional<at::Tensor> q;     // float32[rank * cols]
  std::optional<at::Tensor> turn;  // int64[1], of the CPU
};

// A Compression, and the tensors whose memory it works on.
struct TensorCompression {
  TensorCompression(const std::vector<PartOfTensor>& parts,
                    std::shared_ptr<CompressionReport> report);

  std::shared_ptr<const Compression> how;
  std::shared_ptr<CompressionReport> report;
  std::vector<at::Tensor> held;
  std::optional<c10::Device> home;  // of what the parts keep; none: they keep nothing
};

// What differs from call to call, as Python gives it.
struct TensorTerms {
  bool mean;
  float unit;
  std::uint64_t seed;
  std::optional<std::uint64_t> fingerprint;
  bool async_op;
};

// Equal for equal bytes, whatever the layout in which they would be printed: of what is in memory.
// The tensors must be contiguous, or dense in some order of their dimensions. Those of a device are
// copied to the host, which waits for it.
std::uint64_t fingerprint_of(const std::vector<at::Tensor>& tensors);

}  // namespace quoit
