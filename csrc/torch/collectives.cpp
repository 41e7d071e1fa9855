// The collectives: each checks its arguments, makes views of them and calls the Communicator.
#include <ATen/DeviceAccelerator.h>

#include "torch/process_group.h"
#include "torch/reduction.h"
#include "torch/sparse.h"

namespace quoit {
namespace {

using c10d::OpType;

// Only the root has lists of inputs.
std::vector<at::Tensor> first_of(const std::vector<std::vector<at::Tensor>>& lists) {
  return lists.empty() ? std::vector<at::Tensor>{} : lists.front();
}

// torch's dispatcher drops the device, but for its number where the caller gave it.
std::optional<c10::Device> device_of(const c10d::BarrierOptions& opts) {
  const auto accelerator = opts.device_ids.empty() ? std::nullopt : at::getAccelerator();
  if (opts.device || !accelerator) return opts.device;
  return c10::Device(*accelerator, static_cast<c10::DeviceIndex>(opts.device_ids.front()));
}

}  // namespace

ProcessGroupQuoit::Handle ProcessGroupQuoit::broadcast(Tensors& tensors,
                                                       const c10d::BroadcastOptions& opts) {
  return translated([&] {
    if (auto* nccl = nccl_for(tensors)) return nccl->broadcast(tensors, opts);
    Operands operands;
    const int root = static_cast<int>(opts.rootRank);
    const at::Tensor& tensor = only(tensors, "broadcast");
    const View data = operands.in_place(tensor, "broadcast: tensor");
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.broadcast(data, root, std::move(o));
    });
    return hand_out(std::move(work), OpType::BROADCAST, tensors, tensors);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::allreduce(Tensors& tensors,
                                                       const c10d::AllreduceOptions& opts) {
  return translated([&] {
    if (only(tensors, "all_reduce").layout() == at::kSparse) return allreduce_sparse(tensors, opts);
    if (auto* nccl = nccl_for(tensors, opts.reduceOp)) return nccl->allreduce(tensors, opts);
    Operands operands;
    const View data = operands.in_place(tensors.front(), "all_reduce: tensor");
    const Reduction reduction = reduction_of(opts.reduceOp, tensors.front());
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.all_reduce(data, data, reduction, std::move(o));
    });
    return hand_out(std::move(work), OpType::ALLREDUCE, tensors, tensors);
  });
}

// What the ranks hold is found out first, then gathered; every rank adds it up for itself.
ProcessGroupQuoit::Handle ProcessGroupQuoit::allreduce_sparse(Tensors& tensors,
                                                              const c10d::AllreduceOptions& opts) {
  return translated([&] {
    QUOIT_CHECK(opts.reduceOp == c10d::ReduceOp::SUM, UsageError,
                "all_reduce of sparse tensors only works with SUM: elements that are not stored "
                "count as 0, which other operations do not leave alone. Pass tensor.to_dense()");
    const auto sum = std::make_shared<SparseSum>(only(tensors, "all_reduce"), rank_, size_);
    CallOptions options;
    if (opts.timeout > kNoTimeout) options.timeout = opts.timeout;
    options.mode = opts.asyncOp ? Engine::Mode::Background : Engine::Mode::Foreground;
    options.keep = sum;
    auto shapes = communicator().all_gather(sum->shape(), sum->shapes(), options);
    options.epilogue = [sum] { sum->finish(); };
    auto contents = communicator().all_gather_later(
        DType::UInt8, [sum] { return sum->contents(); }, std::move(options));
    return hand_out({std::move(shapes), std::move(contents)}, OpType::_ALLREDUCE_SPARSE, tensors,
                    tensors);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::allreduce_coalesced(
    Tensors& tensors, const c10d::AllreduceCoalescedOptions& opts) {
  return translated([&] {
    if (auto* nccl = nccl_for(tensors, opts.reduceOp))
      return nccl->allreduce_coalesced(tensors, opts);
    std::vector<Communicator::Handle> parts;
    for (const at::Tensor& tensor : tensors) {
      Operands operands;
      const Reduction reduction = reduction_of(opts.reduceOp, tensor);
      const View data = operands.in_place(tensor, "all_reduce_coalesced: tensor");
      parts.push_back(
          start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
            return c.all_reduce(data, data, reduction, std::move(o));
          }));
    }
    return hand_out(std::move(parts), OpType::ALLREDUCE_COALESCED, tensors, tensors);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::reduce(Tensors& tensors,
                                                    const c10d::ReduceOptions& opts) {
  return translated([&] {
    if (auto* nccl = nccl_for(tensors, opts.reduceOp)) return nccl->reduce(tensors, opts);
    Operands operands;
    const View data = operands.in_place(only(tensors, "reduce"), "reduce: tensor");
    const Reduction reduction = reduction_of(opts.reduceOp, tensors.front());
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.reduce(data, data, reduction, static_cast<int>(opts.rootRank), std::move(o));
    });
    return hand_out(std::move(work), OpType::REDUCE, tensors, tensors);
  });
}

// outputs[i] is the list, by rank, for inputs[i].
ProcessGroupQuoit::Handle ProcessGroupQuoit::allgather(std::vector<Tensors>& outputs,
                                                       Tensors& inputs,
                                                       const c10d::AllgatherOptions& opts) {
  return translated([&] {
    if (auto* nccl = nccl_for(inputs)) return nccl->allgather(outputs, inputs, opts);
    QUOIT_CHECK(outputs.size() == inputs.size(), UsageError, "all_gather: got ", inputs.size(),
                " inputs and ", outputs.size(), " lists of outputs: give one list for each input");
    std::vector<Communicator::Handle> parts;
    Tensors flat;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      Operands operands;
      const View in = operands.input(inputs[i], "all_gather: input");
      std::vector<View> outs = operands.outputs(outputs[i], "all_gather: output");
      parts.push_back(
          start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
            return c.all_gather(in, std::move(outs), std::move(o));
          }));
      flat.insert(flat.end(), outputs[i].begin(), outputs[i].end());
    }
    return hand_out(std::move(parts), OpType::ALLGATHER, std::move(flat), inputs);
  });
}

Communicator::Handle ProcessGroupQuoit::gather_into(const at::Tensor& output,
                                                    const at::Tensor& input,
                                                    const c10d::AllgatherOptions& opts) {
  Operands operands;
  const View in = operands.input(input, "all_gather_into_tensor: input");
  auto outs = operands.output_parts(output, static_cast<std::size_t>(size_),
                                    "all_gather_into_tensor: output");
  return start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
    return c.all_gather(in, std::move(outs), std::move(o));
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                             const c10d::AllgatherOptions& opts) {
  return translated([&] {
    if (auto* nccl = nccl_for(input)) return nccl->_allgather_base(output, input, opts);
    return hand_out(gather_into(output, input, opts), OpType::_ALLGATHER_BASE, output, input);
  });
}

// The other way round: outputs[r] is the list of what rank r puts in.
ProcessGroupQuoit::Handle ProcessGroupQuoit::allgather_coalesced(
    std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& opts) {
  auto lists = translated([&] { return by_input(outputs, inputs.size(), size_); });
  return allgather(lists, inputs, opts);
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::allgather_into_tensor_coalesced(
    Tensors& outputs, Tensors& inputs, const c10d::AllgatherOptions& opts) {
  return translated([&] {
    if (auto* nccl = nccl_for(inputs))
      return nccl->allgather_into_tensor_coalesced(outputs, inputs, opts);
    QUOIT_CHECK(outputs.size() == inputs.size(), UsageError, "all_gather_into_tensor: got ",
                inputs.size(), " inputs and ", outputs.size(),
                " outputs: give one output for each input");
    std::vector<Communicator::Handle> parts;
    for (std::size_t i = 0; i < inputs.size(); ++i)
      parts.push_back(gather_into(outputs[i], inputs[i], opts));
    return hand_out(std::move(parts), OpType::_ALLGATHER_BASE, outputs, inputs);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::gather(std::vector<Tensors>& outputs, Tensors& inputs,
                                                    const c10d::GatherOptions& opts) {
  return translated([&] {
    if (auto* nccl = nccl_for(inputs)) return nccl->gather(outputs, inputs, opts);
    Operands operands;
    const int root = static_cast<int>(opts.rootRank);
    const View in = operands.input(only(inputs, "gather: input"), "gather: input");
    std::vector<View> outs;
    Tensors results;
    if (rank_ == root) {
      QUOIT_CHECK(outputs.size() == 1, UsageError,
                  "gather: the root must pass one list of outputs");
      results = outputs.front();
      outs = operands.outputs(results, "gather: output");
    }
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.gather(in, std::move(outs), root, std::move(o));
    });
    return hand_out(std::move(work), OpType::GATHER, std::move(results), inputs);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                                     const c10d::ScatterOptions& opts) {
  return translated([&] {
    if (auto* nccl = nccl_for(outputs)) return nccl->scatter(outputs, inputs, opts);
    Operands operands;
    const int root = static_cast<int>(opts.rootRank);
    const View out = operands.output(only(outputs, "scatter: output"), "scatter: output");
    std::vector<View> ins;
    if (rank_ == root) {
      QUOIT_CHECK(inputs.size() == 1, UsageError, "scatter: the root must pass one list of inputs");
      ins = operands.inputs(inputs.front(), "scatter: input");
    }
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.scatter(std::move(ins), out, root, std::move(o));
    });
    return hand_out(std::move(work), OpType::SCATTER, outputs, first_of(inputs));
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::reduce_scatter(
    Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ReduceScatterOptions& opts) {
  return translated([&] {
    if (auto* nccl = nccl_for(outputs, opts.reduceOp))
      return nccl->reduce_scatter(outputs, inputs, opts);
    QUOIT_CHECK(inputs.size() == 1, UsageError, "reduce_scatter: got ", inputs.size(),
                " lists of inputs; pass one");
    Operands operands;
    const View out =
        operands.output(only(outputs, "reduce_scatter: output"), "reduce_scatter: output");
    std::vector<View> ins = operands.inputs(inputs.front(), "reduce_scatter: input");
    const Reduction reduction = reduction_of(opts.reduceOp, outputs.front());
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.reduce_scatter(std::move(ins), out, reduction, std::move(o));
    });
    return hand_out(std::move(work), OpType::REDUCE_SCATTER, outputs, first_of(inputs));
  });
}

Communicator::Handle ProcessGroupQuoit::reduce_out_of(const at::Tensor& input,
                                                      const at::Tensor& output,
                                                      const c10d::ReduceScatterOptions& opts) {
  Operands operands;
  const Reduction reduction = reduction_of(opts.reduceOp, input);
  const View out = operands.output(output, "reduce_scatter_tensor: output");
  auto ins =
      operands.input_parts(input, static_cast<std::size_t>(size_), "reduce_scatter_tensor: input");
  return start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
    return c.reduce_scatter(std::move(ins), out, reduction, std::move(o));
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::_reduce_scatter_base(
    at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& opts) {
  return translated([&] {
    if (auto* nccl = nccl_for(input, opts.reduceOp))
      return nccl->_reduce_scatter_base(output, input, opts);
    return hand_out(reduce_out_of(input, output, opts), OpType::_REDUCE_SCATTER_BASE, output,
                    input);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::reduce_scatter_tensor_coalesced(
    Tensors& outputs, Tensors& inputs, const c10d::ReduceScatterOptions& opts) {
  return translated([&] {
    if (auto* nccl = nccl_for(inputs, opts.reduceOp))
      return nccl->reduce_scatter_tensor_coalesced(outputs, inputs, opts);
    QUOIT_CHECK(outputs.size() == inputs.size(), UsageError, "reduce_scatter_tensor: got ",
                inputs.size(), " inputs and ", outputs.size(),
                " outputs: give one output for each input");
    std::vector<Communicator::Handle> parts;
    for (std::size_t i = 0; i < inputs.size(); ++i)
      parts.push_back(reduce_out_of(inputs[i], outputs[i], opts));
    return hand_out(std::move(parts), OpType::_REDUCE_SCATTER_BASE, outputs, inputs);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::alltoall_base(at::Tensor& output, at::Tensor& input,
                                                           std::vector<int64_t>& output_splits,
                                                           std::vector<int64_t>& input_splits,
                                                           const c10d::AllToAllOptions& opts) {
  return translated([&] {
    if (auto* nccl = nccl_for(input))
      return nccl->alltoall_base(output, input, output_splits, input_splits, opts);
    Operands operands;
    const auto n = static_cast<std::size_t>(size_);
    auto ins = operands.input_splits(input, input_splits, n, "all_to_all_single: input");
    auto outs = operands.output_splits(output, output_splits, n, "all_to_all_single: output");
    const bool uneven = !input_splits.empty() || !output_splits.empty();
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.all_to_all(std::move(ins), std::move(outs), uneven, std::move(o));
    });
    return hand_out(std::move(work), OpType::ALLTOALL_BASE, output, input);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::alltoall(Tensors& outputs, Tensors& inputs,
                                                      const c10d::AllToAllOptions& opts) {
  return translated([&] {
    if (auto* nccl = nccl_for(inputs)) return nccl->alltoall(outputs, inputs, opts);
    Operands operands;
    auto ins = operands.inputs(inputs, "all_to_all: input");
    auto outs = operands.outputs(outputs, "all_to_all: output");
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.all_to_all(std::move(ins), std::move(outs), /*uneven=*/true, std::move(o));
    });
    return hand_out(std::move(work), OpType::ALLTOALL, outputs, inputs);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::barrier(const c10d::BarrierOptions& opts) {
  return translated([&] {
    const std::optional<c10::Device> device = device_of(opts);
    if (auto* nccl = device ? nccl_for(*device) : nullptr) return nccl->barrier(opts);
    Operands operands;
    if (device && !device->is_cpu()) operands.after(*device, "barrier");
    auto work = start(operands, opts.timeout, opts.asyncOp,
                      [&](Communicator& c, CallOptions o) { return c.barrier(std::move(o)); });
    return hand_out(std::move(work), OpType::BARRIER, Tensors{}, Tensors{});
  });
}

}  // namespace quoit
