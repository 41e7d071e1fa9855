#include "torch/compression.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include "core/hash.h"
#include "core/log.h"
#include "torch/process_group.h"

namespace quoit {
namespace {

using c10d::OpType;

std::string called(const c10::Device& device) { return device.is_cpu() ? "the CPU" : device.str(); }

// The memory of a tensor that a codec keeps on that device.
template <class T>
T* memory_of(const at::Tensor& tensor, std::int64_t count, const char* what, c10::Device device) {
  constexpr at::ScalarType kType = c10::CppTypeToScalarType<T>::value;
  QUOIT_CHECK(tensor.scalar_type() == kType && tensor.is_contiguous() &&
                  tensor.device() == device && tensor.numel() == count,
              UsageError, "compression: ", what, " is a ", c10::toString(tensor.scalar_type()),
              " tensor of ", tensor.numel(), " elements on ", tensor.device().str(),
              "; it must be contiguous on ", called(device), ", of dtype ", c10::toString(kType),
              ", with ", count, " elements");
  return tensor.mutable_data_ptr<T>();
}

std::shared_ptr<LowRank> matrix_of(const PartOfTensor& part, LowRank matrix, c10::Device home) {
  QUOIT_CHECK(part.residual && part.p && part.q && part.turn && part.rows > 0 && part.cols > 0 &&
                  part.rows * part.cols == part.count,
              UsageError, "compression by ", part.codec, ": a tensor of ", part.count,
              " elements as a matrix of ", part.rows, " x ", part.cols,
              ": it needs its shape, a residual, both bases and the turn");
  const auto rank = static_cast<std::int64_t>(matrix.rank);
  matrix.rows = static_cast<std::size_t>(part.rows);
  matrix.cols = static_cast<std::size_t>(part.cols);
  matrix.p = memory_of<float>(*part.p, rank * part.rows, "p", home);
  matrix.q = memory_of<float>(*part.q, rank * part.cols, "q", home);
  matrix.turn = memory_of<std::int64_t>(*part.turn, 1, "turn", at::kCPU);
  return std::make_shared<LowRank>(matrix);
}

Part part_of(const PartOfTensor& part, std::size_t begin, c10::Device home) {
  QUOIT_CHECK(part.count >= 0, UsageError, "compression: a tensor of ", part.count, " elements");
  const std::optional<LowRank> matrix = low_rank_named(part.codec);
  Part made{{begin, static_cast<std::size_t>(part.count)},
            codec_named(matrix ? "raw" : part.codec)};
  if (part.residual)
    made.residual = memory_of<float>(*part.residual, part.count, "the residual", home);
  if (matrix) made.matrix = matrix_of(part, *matrix, home);
  return made;
}

CompressionTerms terms_of(const TensorTerms& terms,
                          const std::shared_ptr<CompressionReport>& report) {
  return {terms.unit, terms.seed, terms.fingerprint, report};
}

// Of its memory. A copy keeps the order of the dimensions.
std::uint64_t hash_on_host(const at::Tensor& dense) {
  const at::Tensor here = dense.detach().cpu();
  return hash_of({static_cast<const std::byte*>(here.const_data_ptr()), here.nbytes()});
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
    if (part.residual && !home) home = part.residual->device();
    made.push_back(part_of(part, begin, home.value_or(at::kCPU)));
    begin += made.back().where.count;
    for (const auto* kept : {&part.residual, &part.p, &part.q, &part.turn})
      if (*kept) held.push_back(**kept);
  }
  how = std::make_shared<const Compression>(std::move(made));
}

std::uint64_t fingerprint_of(const std::vector<at::Tensor>& tensors) {
  Hash all;
  for (const at::Tensor& tensor : tensors) {
    QUOIT_CHECK(tensor.is_non_overlapping_and_dense(), UsageError,
                "fingerprint: a tensor that is not dense memory: pass contiguous ones");
    all.take(hash_on_host(tensor));
  }
  return all.value();
}

// Why compressed tensors of this device go by way of the host, or nothing.
std::string ProcessGroupQuoit::compressed_on_host(c10::Device device) {
  return translated([&]() -> std::string {
    if (device.is_cpu()) return "they lie there";
    const std::string no_nccl = nccl_ ? nccl_->unusable(device) : "this group has none";
    if (no_nccl.empty()) return nccl_->no_kernels();
    const std::string no_ipc = ipc_obstacle(device);
    return no_ipc.empty() ? "" : text("no NCCL: ", no_nccl, "; no CUDA IPC: ", no_ipc);
  });
}

std::string ProcessGroupQuoit::ipc_obstacle(c10::Device device) {
  if (!device.has_index()) device = c10::impl::VirtualGuardImpl(device.type()).getDevice();
  return communicator().device_obstacle(TensorOrder(device));
}

ProcessGroupQuoit::CompressedWay ProcessGroupQuoit::compressing(c10::Device device,
                                                                const TensorCompression& by) {
  const std::string on_host = compressed_on_host(device);
  const bool kept_here = !by.home || (on_host.empty() ? *by.home == device : by.home->is_cpu());
  QUOIT_CHECK(kept_here, UsageError, "compression of a tensor on ", called(device),
              ": its residual is on ", called(*by.home), ", and must be on ",
              on_host.empty() ? called(device) : "the CPU: such tensors are compressed there, as ",
              on_host);
  if (on_host.empty()) return {nccl_for(device), false};
  if (!device.is_cpu() && log::debug() && !told_why_compressed_there_.exchange(true))
    log::write(text("[quoit ", where_, "] tensors on ", device.str(),
                    " are compressed on the host: ", on_host));
  return {nullptr, true};
}

// What compare_replicas() does, of a tensor on a device: on the host, which waits for it.
void ProcessGroupQuoit::compare_replicas_of(const at::Tensor& tensor, std::uint64_t fingerprint,
                                            const Handle& work) {
  QUOIT_CHECK(work, UsageError,
              "compressed all_reduce: replicas of tensors on an accelerator cannot be compared "
              "in a coalescing region: call it outside, or without check_every");
  work->wait(timeout_.load());
  Communicator& group = communicator();
  group.engine().wait(*group.compare({hash_on_host(tensor.contiguous()), fingerprint}));
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::compressed_allreduce(
    const at::Tensor& tensor, const TensorCompression& compression, const TensorTerms& terms) {
  return translated([&] {
    const CompressedWay way = compressing(tensor.device(), compression);
    // On the device, replicas are compared when it is over.
    const bool later = !way.on_host && terms.fingerprint;
    TensorTerms mine = terms;
    mine.async_op |= later;
    const auto compared = [&](Handle work) {
      if (later) compare_replicas_of(tensor, *terms.fingerprint, work);
      return work;
    };
    if (way.nccl) return compared(way.nccl->compressed_all_reduce(tensor, compression, mine));
    Operands operands;
    const View data = operands.in_place(tensor, "compressed all_reduce: tensor");
    operands.hold(compression.held);
    auto work = start(operands, kNoTimeout, mine.async_op, [&](Communicator& c, CallOptions o) {
      if (!way.on_host) o.room = operands.room();
      return c.compressed_all_reduce(data, compression.how, terms_of(mine, compression.report),
                                     reduction_of(mine), std::move(o));
    });
    return compared(hand_out(std::move(work), OpType::ALLREDUCE, tensor, tensor));
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::compressed_reduce_scatter(
    const at::Tensor& input, const at::Tensor& output, const TensorCompression& compression,
    const TensorTerms& terms) {
  return translated([&] {
    const CompressedWay way = compressing(input.device(), compression);
    if (way.nccl) return way.nccl->compressed_reduce_scatter(input, output, compression, terms);
    Operands operands;
    const View data = operands.in_place(input, "compressed reduce_scatter: input");
    const View out = operands.output(output, "compressed reduce_scatter: output");
    operands.hold(compression.held);
    auto work = start(operands, kNoTimeout, terms.async_op, [&](Communicator& c, CallOptions o) {
      if (!way.on_host) o.room = operands.room();
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
    const CompressedWay way = compressing(tensor.device(), compression);
    if (way.nccl) return way.nccl->compressed_all_gather(tensor, compression, terms);
    Operands operands;
    const View data = operands.in_place(tensor, "compressed all_gather: tensor");
    auto work = start(operands, kNoTimeout, terms.async_op, [&](Communicator& c, CallOptions o) {
      if (!way.on_host) o.room = operands.room();
      return c.compressed_all_gather(data, compression.how, terms_of(terms, compression.report),
                                     std::move(o));
    });
    return hand_out(std::move(work), OpType::_ALLGATHER_BASE, tensor, tensor);
  });
}

}  // namespace quoit
