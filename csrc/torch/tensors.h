#pragma once
// Tensors as the runtime sees them: views of contiguous memory, of the CPU or of an accelerator.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/SmallVector.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "torch/device_staging.h"
#include "torch/tensor_order.h"

namespace quoit {

// The element type; a complex tensor is one of pairs.
DType dtype_of(const at::Tensor& tensor);

// Whether the elements are of a type that has no arithmetic at all, in torch neither.
bool only_moved(const at::Tensor& tensor);

// Along dimension 0; one for a tensor without dimensions.
std::size_t rows_in(const at::Tensor& tensor);

// The rows of each of `parts` ranks: as many as `splits` says, or, when it is empty, equally many.
std::vector<Slice> split_rows(const at::Tensor& tensor, const std::vector<int64_t>& splits,
                              std::size_t parts, const char* what);

// all_gather_coalesced's outputs, a list for each rank, as all_gather has them: a list for each
// input.
std::vector<std::vector<at::Tensor>> by_input(const std::vector<std::vector<at::Tensor>>& by_rank,
                                              std::size_t inputs, int ranks);

// Tensors of one operation. Hands out views; a tensor that is not contiguous is copied into one
// that is, and an output is copied back when the operation is over.
class Operands {
 public:
  // `what` names the argument in error messages.
  View input(const at::Tensor& tensor, const char* what);
  View output(const at::Tensor& tensor, const char* what);
  View in_place(const at::Tensor& tensor, const char* what);

  std::vector<View> inputs(const std::vector<at::Tensor>& tensors, const char* what);
  std::vector<View> outputs(const std::vector<at::Tensor>& tensors, const char* what);

  // One flat buffer per rank, cut out of a single tensor: `parts` equal pieces.
  std::vector<View> input_parts(const at::Tensor& tensor, std::size_t parts, const char* what);
  std::vector<View> output_parts(const at::Tensor& tensor, std::size_t parts, const char* what);

  // As above by split sizes along dimension 0; equal pieces when `splits` is empty.
  std::vector<View> input_splits(const at::Tensor& tensor, const std::vector<int64_t>& splits,
                                 std::size_t parts, const char* what);
  std::vector<View> output_splits(const at::Tensor& tensor, const std::vector<int64_t>& splits,
                                  std::size_t parts, const char* what);

  // Memory that the operation uses besides; after those above.
  void hold(const std::vector<at::Tensor>& tensors) {
    tensors_.append(tensors.begin(), tensors.end());
    for (const at::Tensor& tensor : tensors)
      if (order_ && !tensor.device().is_cpu()) order_->add(tensor);
  }

  // Of an operation that has no tensors: what is on the current stream of `device` comes before it.
  void after(c10::Device device, const char* what);

  // What brings tensors of an accelerator to the host; null if all are of the CPU.
  [[nodiscard]] std::shared_ptr<Staging> staging() const { return staging_; }

  // What orders a call on them that needs no host; null likewise.
  [[nodiscard]] std::shared_ptr<DeviceOrder> order() const { return order_; }

  // Memory for the call there.
  [[nodiscard]] DeviceRoom room() const {
    return [order = order_](std::size_t bytes, bool zeroed) { return order->room(bytes, zeroed); };
  }

  // What keeps all the memory alive, and what copies outputs back (empty when nothing has to be).
  [[nodiscard]] std::shared_ptr<void> keep() const { return std::make_shared<Kept>(tensors_); }
  [[nodiscard]] std::function<void()> epilogue() const;

 private:
  using Kept = c10::SmallVector<at::Tensor, 2>;  // most calls have no more, and allocate nothing

  View view(const at::Tensor& tensor, bool reads, bool writes, const char* what);

  Kept tensors_;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies_back_;  // to, from; of CPU tensors
  std::shared_ptr<DeviceStaging> staging_;
  std::shared_ptr<TensorOrder> order_;
};

}  // namespace quoit
