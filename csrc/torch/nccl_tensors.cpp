#include "torch/nccl_tensors.h"

#include "core/error.h"

namespace quoit {

std::size_t nccl_bytes(const at::Tensor& tensor) {
  return static_cast<std::size_t>(tensor.nbytes());
}

at::Tensor as_bytes(const at::Tensor& contiguous) {
  return contiguous.reshape({-1}).view(at::kByte);
}

at::Tensor piece_of(const at::Tensor& bytes, std::int64_t n, std::int64_t i) {
  return bytes.narrow(0, bytes.numel() / n * i, bytes.numel() / n);
}

bool all_alike(const std::vector<at::Tensor>& tensors) {
  for (const at::Tensor& tensor : tensors)
    if (tensor.numel() != tensors.front().numel()) return false;
  return true;
}

void check_list(const std::vector<at::Tensor>& list, int size, const char* what) {
  QUOIT_CHECK(static_cast<int>(list.size()) == size, UsageError, what, ": got ", list.size(),
              " tensors for ", size, " ranks; pass one for each");
}

void check_fits(const at::Tensor& from, const at::Tensor& to, std::int64_t parts,
                const char* what) {
  QUOIT_CHECK(from.scalar_type() == to.scalar_type() && from.numel() * parts == to.numel(),
              UsageError, what, ": ", parts, " times ", c10::toString(from.scalar_type()), "[",
              from.numel(), "] does not make ", c10::toString(to.scalar_type()), "[", to.numel(),
              "]: make the tensors fit");
}

std::vector<at::Tensor> split_bytes(const at::Tensor& tensor, const std::vector<int64_t>& splits,
                                    std::int64_t parts, const char* what) {
  const at::Tensor bytes = as_bytes(tensor);
  const std::int64_t rows = tensor.dim() == 0 ? 1 : tensor.size(0);
  std::vector<at::Tensor> pieces;
  if (splits.empty()) {
    QUOIT_CHECK(rows % parts == 0, UsageError, what, " has ", rows, " rows, which ", parts,
                " ranks cannot share equally: give split sizes");
    for (std::int64_t i = 0; i < parts; ++i) pieces.push_back(piece_of(bytes, parts, i));
    return pieces;
  }
  QUOIT_CHECK(static_cast<std::int64_t>(splits.size()) == parts, UsageError, what, ": got ",
              splits.size(), " split sizes for ", parts, " ranks");
  std::int64_t sum = 0;
  for (const int64_t split : splits) {
    QUOIT_CHECK(split >= 0, UsageError, what, ": split size ", split, " is negative");
    sum += split;
  }
  QUOIT_CHECK(sum == rows, UsageError, what, " has ", rows, " rows, but its split sizes add up to ",
              sum);
  const std::int64_t row = rows == 0 ? 0 : bytes.numel() / rows;
  std::int64_t begin = 0;
  for (const int64_t split : splits) {
    pieces.push_back(bytes.narrow(0, begin * row, split * row));
    begin += split;
  }
  return pieces;
}

}  // namespace quoit
