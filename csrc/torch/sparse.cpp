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
              ", but this build of quoit communicates CPU tensors: move it with .cpu()");
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
  std::vector<at::Tensor> indices;
  std::vector<at::Tensor> values;
  for (std::size_t rank = 0; rank < all_.size(); ++rank) {
    const int64_t stored = all_[rank].stored;
    std::vector<int64_t> dims = values_.sizes().vec();
    dims.front() = stored;
    at::Tensor its_indices = at::empty({mine_.sparse_dims, stored}, at::kLong);
    at::Tensor its_values = at::empty(dims, values_.options());
    const auto* from = static_cast<const std::byte*>(gathered_[rank].data_ptr());
    const std::size_t split = its_indices.nbytes();
    if (split > 0) std::memcpy(its_indices.data_ptr(), from, split);
    if (its_values.nbytes() > 0)
      std::memcpy(its_values.data_ptr(), from + split, its_values.nbytes());
    indices.push_back(std::move(its_indices));
    values.push_back(std::move(its_values));
  }
  // Elements of one place stay in rank order while they are sorted and then added up. Half
  // precision is rounded once, as in every sum inside a host.
  const auto dtype = values_.scalar_type();
  const bool half = dtype == at::kHalf || dtype == at::kBFloat16;
  at::Tensor all_values = at::cat(values, 0);
  if (half) all_values = all_values.to(at::kFloat);
  at::Tensor sum = at::_sparse_coo_tensor_unsafe(at::cat(indices, 1), all_values, result_.sizes(),
                                                 all_values.options().layout(at::kSparse))
                       .coalesce();
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
