#include "torch/sparse.h"

#include <ATen/core/grad_mode.h>

#include <cstring>

#include "torch/tensors.h"

namespace quoit {
namespace {

at::Tensor bytes_of(const at::Tensor& tensor) {
  return at::from_blob(tensor.data_ptr(), {static_cast<int64_t>(tensor.nbytes())}, at::kByte);
}

View view_of(const at::Tensor& bytes) {
  return {static_cast<std::byte*>(bytes.data_ptr()), bytes.nbytes(), DType::UInt8};
}

}  // namespace

SparseSum::SparseSum(const at::Tensor& result, int rank, int size)
    : result_(result), rank_(static_cast<std::size_t>(rank)), all_(static_cast<std::size_t>(size)) {
  constexpr const char* kAsked = "all_reduce of a sparse tensor";
  QUOIT_CHECK(result.layout() == at::kSparse, UsageError, kAsked, ": its layout is ",
              text(result.layout()), ": pass tensor.to_sparse_coo() or tensor.to_dense()");
  QUOIT_CHECK(result.device().is_cpu(), UsageError, kAsked, ": it is on ", result.device().str(),
              ", and works on the CPU only: move it with .cpu()");
  QUOIT_CHECK(static_cast<std::size_t>(result.dim()) <= kMaxDims, UsageError, kAsked, ": it has ",
              result.dim(), " dimensions; at most ", kMaxDims, " work");
  const at::NoGradGuard no_grad;
  const at::Tensor input = result.coalesce();
  mine_.dtype = static_cast<std::int64_t>(input.scalar_type());
  mine_.sparse_dims = input.sparse_dim();
  mine_.dense_dims = input.dense_dim();
  mine_.stored = input._nnz();
  std::copy(input.sizes().begin(), input.sizes().end(), mine_.sizes.begin());
  values_ = input.values().contiguous();
  check_reducible(dtype_of(values_), ReduceOp::Sum);
  packed_ = at::cat({bytes_of(input.indices().contiguous()), bytes_of(values_)});
}

View SparseSum::shape() {
  return {reinterpret_cast<std::byte*>(&mine_), sizeof(Shape) / 8, DType::Int64};
}

std::vector<View> SparseSum::shapes() {
  std::vector<View> views;
  for (Shape& shape : all_)
    views.push_back({reinterpret_cast<std::byte*>(&shape), sizeof(Shape) / 8, DType::Int64});
  return views;
}

Communicator::Gathering SparseSum::contents() {
  std::vector<View> outs;
  for (std::size_t rank = 0; rank < all_.size(); ++rank) {
    Shape theirs = all_[rank];
    const auto stored = static_cast<std::size_t>(theirs.stored);
    theirs.stored = mine_.stored;
    QUOIT_CHECK(std::memcmp(&theirs, &mine_, sizeof(Shape)) == 0, UsageError,
                "ranks disagree: rank ", rank, " passes ", all_[rank].described(),
                ", this rank passes ", mine_.described(),
                ". All ranks must pass sparse tensors of the same dtype, size, sparse and dense "
                "dimensions; only the number of stored elements may differ");
    const std::size_t indices = 8 * static_cast<std::size_t>(mine_.sparse_dims);
    const auto total = static_cast<int64_t>(stored * (indices + value_bytes()));
    gathered_.push_back(at::empty({total}, at::kByte));
    outs.push_back(view_of(gathered_.back()));
  }
  return {view_of(packed_), std::move(outs)};
}

void SparseSum::finish() const {
  const at::NoGradGuard no_grad;
  // Half precision is rounded once, as in every sum inside a host.
  const auto dtype = values_.scalar_type();
  const bool half = dtype == at::kHalf || dtype == at::kBFloat16;
  at::Tensor sum;
  for (std::size_t rank = 0; rank < all_.size(); ++rank) {
    const int64_t stored = all_[rank].stored;
    std::vector<int64_t> dims = values_.sizes().vec();
    dims.front() = stored;
    const at::Tensor indices = at::empty({mine_.sparse_dims, stored}, at::kLong);
    at::Tensor values = at::empty(dims, values_.options());
    const auto* from = static_cast<const std::byte*>(gathered_[rank].data_ptr());
    if (indices.nbytes() > 0) std::memcpy(indices.data_ptr(), from, indices.nbytes());
    if (values.nbytes() > 0)
      std::memcpy(values.data_ptr(), from + indices.nbytes(), values.nbytes());
    if (half) values = values.to(at::kFloat);
    // One by one, for a sum in rank order: coalesce() sorts, and not stably.
    const at::Tensor theirs = at::_sparse_coo_tensor_unsafe(indices, values, result_.sizes(),
                                                            values.options().layout(at::kSparse))
                                  ._coalesced_(true);
    sum = sum.defined() ? sum.add(theirs) : theirs;
  }
  sum = sum.coalesce();
  result_.copy_(half ? sum.to(dtype) : sum);
}

// Of the values at one place.
std::size_t SparseSum::value_bytes() const {
  std::size_t count = 1;
  for (int64_t i = 0; i < mine_.dense_dims; ++i)
    count *= static_cast<std::size_t>(mine_.sizes[static_cast<std::size_t>(mine_.sparse_dims + i)]);
  return count * values_.element_size();
}

std::string SparseSum::Shape::described() const {
  std::string said = text(c10::toString(static_cast<at::ScalarType>(dtype)), " of size [");
  for (std::int64_t i = 0; i < sparse_dims + dense_dims; ++i)
    said += text(i > 0 ? ", " : "", sizes[static_cast<std::size_t>(i)]);
  return text(said, "] with ", sparse_dims, " sparse and ", dense_dims, " dense dimensions");
}

}  // namespace quoit
