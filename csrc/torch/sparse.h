#pragma once
// The sum of sparse (COO) tensors, of which every rank stores other elements.
#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <vector>

#include "collective/communicator.h"

namespace quoit {

// What one such all_reduce works on. First the ranks gather their shapes, then their contents: the
// indices and values, as bytes. Then each adds up in rank order. Used by one operation, under the
// engine's lock but for the constructor.
class SparseSum {
 public:
  // `result` is an input and becomes the coalesced sum.
  SparseSum(const at::Tensor& result, int rank, int size);

  [[nodiscard]] View shape();
  [[nodiscard]] std::vector<View> shapes();

  // Once the shapes are there. Throws UsageError when the ranks' tensors do not go together.
  [[nodiscard]] Communicator::Gathering contents();

  // Once the contents are there.
  void finish() const;

 private:
  static constexpr std::size_t kMaxDims = 12;
  struct Shape {
    std::int64_t dtype = 0;
    std::int64_t sparse_dims = 0;
    std::int64_t dense_dims = 0;
    std::int64_t stored = 0;                     // the only one that may differ
    std::array<std::int64_t, kMaxDims> sizes{};  // sparse and dense

    [[nodiscard]] std::string described() const;
  };

  [[nodiscard]] std::size_t value_bytes() const;

  const at::Tensor result_;
  const std::size_t rank_;
  Shape mine_;
  std::vector<Shape> all_;
  at::Tensor values_;                 // of this rank, contiguous
  at::Tensor packed_;                 // this rank's contents
  std::vector<at::Tensor> gathered_;  // everybody's
};

}  // namespace quoit
