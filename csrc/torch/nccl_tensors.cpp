#include "torch/nccl_tensors.h"

#include "torch/tensors.h"

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
  const auto rows = static_cast<std::int64_t>(rows_in(tensor));
  const std::int64_t each = rows == 0 ? 0 : bytes.numel() / rows;
  std::vector<at::Tensor> pieces;
  for (const Slice& part : split_rows(tensor, splits, static_cast<std::size_t>(parts), what))
    pieces.push_back(bytes.narrow(0, static_cast<std::int64_t>(part.begin) * each,
                                  static_cast<std::int64_t>(part.count) * each));
  return pieces;
}

}  // namespace quoit
