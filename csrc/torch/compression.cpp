#include "torch/compression.h"

#include "core/hash.h"
#include "torch/process_group.h"

namespace quoit {
namespace {

using c10d::OpType;

// The memory of a tensor that a codec keeps.
template <class T>
T* memory_of(const at::Tensor& tensor, std::int64_t count, const char* what) {
  constexpr at::ScalarType kType = c10::CppTypeToScalarType<T>::value;
  QUOIT_CHECK(tensor.scalar_type() == kType && tensor.is_contiguous() && tensor.device().is_cpu() &&
                  tensor.numel() == count,
              UsageError, "compression: ", what, " is a ", c10::toString(tensor.scalar_type()),
              " tensor of ", tensor.numel(), " elements on ", tensor.device().str(),
              "; it must be contiguous on the CPU, of dtype ", c10::toString(kType), ", with ",
              count, " elements");
  return tensor.mutable_data_ptr<T>();
}

std::shared_ptr<LowRank> matrix_of(const PartOfTensor& part, LowRank matrix) {
  QUOIT_CHECK(part.residual && part.p && part.q && part.turn && part.rows > 0 && part.cols > 0 &&
                  part.rows * part.cols == part.count,
              UsageError, "compression by ", part.codec, ": a tensor of ", part.count,
              " elements as a matrix of ", part.rows, " x ", part.cols,
              ": it needs its shape, a residual, both bases and the turn");
  const auto rank = static_cast<std::int64_t>(matrix.rank);
  matrix.rows = static_cast<std::size_t>(part.rows);
  matrix.cols = static_cast<std::size_t>(part.cols);
  matrix.p = memory_of<float>(*part.p, rank * part.rows, "p");
  matrix.q = memory_of<float>(*part.q, rank * part.cols, "q");
  matrix.turn = memory_of<std::int64_t>(*part.turn, 1, "turn");
  return std::make_shared<LowRank>(matrix);
}

Part part_of(const PartOfTensor& part, std::size_t begin) {
  QUOIT_CHECK(part.count >= 0, UsageError, "compression: a tensor of ", part.count, " elements");
  const std::optional<LowRank> matrix = low_rank_named(part.codec);
  Part made{{begin, static_cast<std::size_t>(part.count)},
            codec_named(matrix ? "raw" : part.codec)};
  if (part.residual) made.residual = memory_of<float>(*part.residual, part.count, "the residual");
  if (matrix) made.matrix = matrix_of(part, *matrix);
  return made;
}

CompressionTerms terms_of(const TensorTerms& terms,
                          const std::shared_ptr<CompressionReport>& report) {
  return {terms.unit, terms.seed, terms.fingerprint, report};
}

Reduction reduction_of(const TensorTerms& terms) {
  return {terms.mean ? ReduceOp::Avg : ReduceOp::Sum};
}

}  // namespace

TensorCompression::TensorCompression(const std::vector<PartOfTensor>& parts,
                                     std::shared_ptr<CompressionReport> counts)
    : report(std::move(counts)) {
  std::vector<Part> made;
  std::size_t begin = 0;
  for (const PartOfTensor& part : parts) {
    made.push_back(part_of(part, begin));
    begin += made.back().where.count;
    for (const auto* kept : {&part.residual, &part.p, &part.q, &part.turn})
      if (*kept) held.push_back(**kept);
  }
  how = std::make_shared<const Compression>(std::move(made));
}

std::uint64_t fingerprint_of(const std::vector<at::Tensor>& tensors) {
  Hash all;
  for (const at::Tensor& tensor : tensors) {
    QUOIT_CHECK(tensor.device().is_cpu() && tensor.is_non_overlapping_and_dense(), UsageError,
                "fingerprint: a tensor that is not dense memory of the CPU: pass contiguous ones");
    all.take(hash_of({static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}));
  }
  return all.value();
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::compressed_allreduce(
    const at::Tensor& tensor, const TensorCompression& compression, const TensorTerms& terms) {
  return translated([&] {
    Operands operands;
    const View data = operands.in_place(tensor, "compressed all_reduce: tensor");
    operands.hold(compression.held);
    auto work = start(operands, kNoTimeout, terms.async_op, [&](Communicator& c, CallOptions o) {
      return c.compressed_all_reduce(data, compression.how, terms_of(terms, compression.report),
                                     reduction_of(terms), std::move(o));
    });
    return hand_out(std::move(work), OpType::ALLREDUCE, tensor, tensor);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::compressed_reduce_scatter(
    const at::Tensor& input, const at::Tensor& output, const TensorCompression& compression,
    const TensorTerms& terms) {
  return translated([&] {
    Operands operands;
    const View data = operands.in_place(input, "compressed reduce_scatter: input");
    const View out = operands.output(output, "compressed reduce_scatter: output");
    operands.hold(compression.held);
    auto work = start(operands, kNoTimeout, terms.async_op, [&](Communicator& c, CallOptions o) {
      return c.compressed_reduce_scatter(data, out, compression.how,
                                         terms_of(terms, compression.report), reduction_of(terms),
                                         std::move(o));
    });
    return hand_out(std::move(work), OpType::_REDUCE_SCATTER_BASE, output, input);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::compressed_allgather(
    const at::Tensor& tensor, const TensorCompression& compression, const TensorTerms& terms) {
  return translated([&] {
    Operands operands;
    const View data = operands.in_place(tensor, "compressed all_gather: tensor");
    auto work = start(operands, kNoTimeout, terms.async_op, [&](Communicator& c, CallOptions o) {
      return c.compressed_all_gather(data, compression.how, terms_of(terms, compression.report),
                                     std::move(o));
    });
    return hand_out(std::move(work), OpType::_ALLGATHER_BASE, tensor, tensor);
  });
}

}  // namespace quoit
