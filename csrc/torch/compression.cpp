#include "torch/compression.h"

#include "core/hash.h"
#include "torch/process_group.h"

namespace quoit {
namespace {

using c10d::OpType;

Part part_of(const PartOfTensor& part, std::size_t begin) {
  QUOIT_CHECK(part.count >= 0, UsageError, "a compressed tensor of ", part.count,
              " elements: give its number of elements");
  Part made{{begin, static_cast<std::size_t>(part.count)}, codec_named(part.codec)};
  if (!part.residual) return made;
  const at::Tensor& residual = *part.residual;
  QUOIT_CHECK(residual.scalar_type() == at::kFloat && residual.is_contiguous() &&
                  residual.device().is_cpu() && residual.numel() == part.count,
              UsageError, "the residual of a tensor of ", part.count, " elements is a ",
              c10::toString(residual.scalar_type()), " tensor of ", residual.numel(), " on ",
              residual.device().str(), "; it must be float32, contiguous, of the CPU, and as large");
  made.residual = residual.mutable_data_ptr<float>();
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
    if (part.residual) held.push_back(*part.residual);
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
