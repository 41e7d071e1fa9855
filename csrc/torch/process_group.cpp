#include "torch/process_group.h"

namespace quoit {
namespace {

using c10d::OpType;

// Everybody's string by way of torch's store: rank r writes "quoit/ROUND/r".
Rendezvous through_store(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                         Seconds timeout) {
  return [=, round = 0](const std::string& mine) mutable {
    const auto key = [round](int r) { return text("quoit/", round, "/", r); };
    store->set(key(rank), std::vector<uint8_t>(mine.begin(), mine.end()));
    std::vector<std::string> all;
    const Deadline deadline = Deadline::after(timeout);
    for (int r = 0; r < size; ++r) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline.left());
      try {
        store->wait({key(r)}, std::max(left, std::chrono::milliseconds(1)));
      } catch (const std::exception& e) {
        throw TimeoutError(
            text("rank ", rank, " of ", size, " waited ", timeout.count(), " s for rank ", r,
                 " to join the process group: was it started, and did it get as far as "
                 "init_process_group? (",
                 e.what(), ")"));
      }
      const std::vector<uint8_t> said = store->get(key(r));
      all.emplace_back(said.begin(), said.end());
    }
    ++round;
    return all;
  };
}

// Complex numbers travel as pairs, which only sums may treat one by one.
Reduction reduction_of(const c10d::ReduceOp& op, const at::Tensor& tensor) {
  QUOIT_CHECK(!tensor.is_complex() || c10d::isComplexViewAsRealAllowed(op), UsageError,
              "this reduce op has no meaning for complex tensors: use SUM, AVG or PREMUL_SUM");
  switch (op.op_) {
    case c10d::ReduceOp::SUM:
      return {ReduceOp::Sum};
    case c10d::ReduceOp::AVG:
      return {ReduceOp::Avg};
    case c10d::ReduceOp::PRODUCT:
      return {ReduceOp::Product};
    case c10d::ReduceOp::MIN:
      return {ReduceOp::Min};
    case c10d::ReduceOp::MAX:
      return {ReduceOp::Max};
    case c10d::ReduceOp::BAND:
      return {ReduceOp::Band};
    case c10d::ReduceOp::BOR:
      return {ReduceOp::Bor};
    case c10d::ReduceOp::BXOR:
      return {ReduceOp::Bxor};
    case c10d::ReduceOp::PREMUL_SUM: {
      const auto* factor = dynamic_cast<const c10d::PreMulSumSupplement*>(op.supplement_.get());
      QUOIT_CHECK(factor != nullptr, UsageError, "PREMUL_SUM without its factor");
      return {ReduceOp::PremulSum, factor->tensor_factor.defined()
                                       ? factor->tensor_factor.item<double>()
                                       : factor->double_factor};
    }
    default:
      throw UsageError("this reduce op is not known to quoit");
  }
}

const at::Tensor& only(const std::vector<at::Tensor>& tensors, const char* what) {
  QUOIT_CHECK(tensors.size() == 1, UsageError, what, ": got ", tensors.size(),
              " tensors, expected one");
  return tensors.front();
}

// Runs a method's body; our errors come out as torch's.
template <class Body>
auto translated(Body body) {
  try {
    return body();
  } catch (const Error&) {
    std::rethrow_exception(as_torch_error(std::current_exception()));
  }
}

}  // namespace

ProcessGroupQuoit::ProcessGroupQuoit(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                     int size, const ConnectOptions& options)
    : Backend(rank, size),
      options_(c10::make_intrusive<Options>(
          "quoit", std::chrono::duration_cast<std::chrono::milliseconds>(options.timeout))),
      communicator_(connect(Engine::process(), rank, size,
                            through_store(store, rank, size, options.timeout), options)) {
  init();
}

ProcessGroupQuoit::~ProcessGroupQuoit() = default;

Communicator& ProcessGroupQuoit::communicator() {
  QUOIT_CHECK(communicator_ != nullptr, TransportError,
              "this process group was shut down: call init_process_group again");
  return *communicator_;
}

void ProcessGroupQuoit::setTimeout(std::chrono::milliseconds timeout) {
  options_->timeout = timeout;
  communicator().set_timeout(timeout);
}

void ProcessGroupQuoit::abort() {
  if (communicator_) communicator_->abort("the process group was aborted");
}

// Works that are still held keep the communicator: it goes with the last of them.
void ProcessGroupQuoit::shutdown() {
  if (communicator_) communicator_->shut_down();
  communicator_.reset();
}

template <class Start>
Communicator::Handle ProcessGroupQuoit::start(const Operands& operands,
                                              std::chrono::milliseconds timeout, bool background,
                                              Start start_call) {
  CallOptions options;
  if (timeout > kNoTimeout) options.timeout = timeout;
  options.mode = background ? Engine::Mode::Background : Engine::Mode::Foreground;
  options.keep = operands.keep();
  options.epilogue = operands.epilogue();
  return start_call(communicator(), std::move(options));
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::hand_out(std::vector<Communicator::Handle> parts,
                                                      OpType type, Tensors outputs) {
  return c10::make_intrusive<WorkQuoit>(communicator_, std::move(parts), type, std::move(outputs));
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::broadcast(Tensors& tensors,
                                                       const c10d::BroadcastOptions& opts) {
  return translated([&] {
    Operands operands;
    const int root = static_cast<int>(opts.rootRank);
    const at::Tensor& tensor = only(tensors, "broadcast");
    const View data = operands.in_place(tensor, "broadcast: tensor");
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.broadcast(data, root, std::move(o));
    });
    return hand_out({std::move(work)}, OpType::BROADCAST, tensors);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::allreduce(Tensors& tensors,
                                                       const c10d::AllreduceOptions& opts) {
  return translated([&] {
    Operands operands;
    const View data = operands.in_place(only(tensors, "all_reduce"), "all_reduce: tensor");
    const Reduction reduction = reduction_of(opts.reduceOp, tensors.front());
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.all_reduce(data, data, reduction, std::move(o));
    });
    return hand_out({std::move(work)}, OpType::ALLREDUCE, tensors);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::allreduce_coalesced(
    Tensors& tensors, const c10d::AllreduceCoalescedOptions& opts) {
  return translated([&] {
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
    return hand_out(std::move(parts), OpType::ALLREDUCE_COALESCED, tensors);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::reduce(Tensors& tensors,
                                                    const c10d::ReduceOptions& opts) {
  return translated([&] {
    Operands operands;
    const View data = operands.in_place(only(tensors, "reduce"), "reduce: tensor");
    const Reduction reduction = reduction_of(opts.reduceOp, tensors.front());
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.reduce(data, data, reduction, static_cast<int>(opts.rootRank), std::move(o));
    });
    return hand_out({std::move(work)}, OpType::REDUCE, tensors);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::allgather(std::vector<Tensors>& outputs,
                                                       Tensors& inputs,
                                                       const c10d::AllgatherOptions& opts) {
  return allgather_coalesced(outputs, inputs, opts);
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                             const c10d::AllgatherOptions& opts) {
  Tensors outputs{output};
  Tensors inputs{input};
  return allgather_into_tensor_coalesced(outputs, inputs, opts);
}

// outputs[i] is the list, by rank, for inputs[i].
ProcessGroupQuoit::Handle ProcessGroupQuoit::allgather_coalesced(
    std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& opts) {
  return translated([&] {
    QUOIT_CHECK(outputs.size() == inputs.size(), UsageError, "all_gather: got ", inputs.size(),
                " inputs and ", outputs.size(), " lists of outputs: give one list for each input");
    std::vector<Communicator::Handle> parts;
    Tensors flat;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      Operands operands;
      const View in = operands.input(inputs[i], "all_gather: input");
      const std::vector<View> outs = operands.outputs(outputs[i], "all_gather: output");
      parts.push_back(start(
          operands, opts.timeout, opts.asyncOp,
          [&](Communicator& c, CallOptions o) { return c.all_gather(in, outs, std::move(o)); }));
      flat.insert(flat.end(), outputs[i].begin(), outputs[i].end());
    }
    return hand_out(std::move(parts), OpType::ALLGATHER, std::move(flat));
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::allgather_into_tensor_coalesced(
    Tensors& outputs, Tensors& inputs, const c10d::AllgatherOptions& opts) {
  return translated([&] {
    QUOIT_CHECK(outputs.size() == inputs.size(), UsageError, "all_gather_into_tensor: got ",
                inputs.size(), " inputs and ", outputs.size(), " outputs");
    std::vector<Communicator::Handle> parts;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      Operands operands;
      const View in = operands.input(inputs[i], "all_gather_into_tensor: input");
      const auto outs = operands.output_parts(outputs[i], static_cast<std::size_t>(size_),
                                              "all_gather_into_tensor: output");
      parts.push_back(start(
          operands, opts.timeout, opts.asyncOp,
          [&](Communicator& c, CallOptions o) { return c.all_gather(in, outs, std::move(o)); }));
    }
    return hand_out(std::move(parts), OpType::_ALLGATHER_BASE, outputs);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::gather(std::vector<Tensors>& outputs, Tensors& inputs,
                                                    const c10d::GatherOptions& opts) {
  return translated([&] {
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
      return c.gather(in, outs, root, std::move(o));
    });
    return hand_out({std::move(work)}, OpType::GATHER, std::move(results));
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                                     const c10d::ScatterOptions& opts) {
  return translated([&] {
    Operands operands;
    const int root = static_cast<int>(opts.rootRank);
    const View out = operands.output(only(outputs, "scatter: output"), "scatter: output");
    std::vector<View> ins;
    if (rank_ == root) {
      QUOIT_CHECK(inputs.size() == 1, UsageError, "scatter: the root must pass one list of inputs");
      ins = operands.inputs(inputs.front(), "scatter: input");
    }
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.scatter(ins, out, root, std::move(o));
    });
    return hand_out({std::move(work)}, OpType::SCATTER, outputs);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::reduce_scatter(
    Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ReduceScatterOptions& opts) {
  return translated([&] {
    QUOIT_CHECK(inputs.size() == 1, UsageError, "reduce_scatter: expected one list of inputs");
    Operands operands;
    const View out =
        operands.output(only(outputs, "reduce_scatter: output"), "reduce_scatter: output");
    const std::vector<View> ins = operands.inputs(inputs.front(), "reduce_scatter: input");
    const Reduction reduction = reduction_of(opts.reduceOp, outputs.front());
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.reduce_scatter(ins, out, reduction, std::move(o));
    });
    return hand_out({std::move(work)}, OpType::REDUCE_SCATTER, outputs);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::_reduce_scatter_base(
    at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& opts) {
  Tensors outputs{output};
  Tensors inputs{input};
  return reduce_scatter_tensor_coalesced(outputs, inputs, opts);
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::reduce_scatter_tensor_coalesced(
    Tensors& outputs, Tensors& inputs, const c10d::ReduceScatterOptions& opts) {
  return translated([&] {
    QUOIT_CHECK(outputs.size() == inputs.size(), UsageError, "reduce_scatter_tensor: got ",
                inputs.size(), " inputs and ", outputs.size(), " outputs");
    std::vector<Communicator::Handle> parts;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      Operands operands;
      const Reduction reduction = reduction_of(opts.reduceOp, inputs[i]);
      const View out = operands.output(outputs[i], "reduce_scatter_tensor: output");
      const auto ins = operands.input_parts(inputs[i], static_cast<std::size_t>(size_),
                                            "reduce_scatter_tensor: input");
      parts.push_back(
          start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
            return c.reduce_scatter(ins, out, reduction, std::move(o));
          }));
    }
    return hand_out(std::move(parts), OpType::_REDUCE_SCATTER_BASE, outputs);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::alltoall_base(at::Tensor& output, at::Tensor& input,
                                                           std::vector<int64_t>& output_splits,
                                                           std::vector<int64_t>& input_splits,
                                                           const c10d::AllToAllOptions& opts) {
  return translated([&] {
    Operands operands;
    const auto n = static_cast<std::size_t>(size_);
    const auto ins = operands.input_splits(input, input_splits, n, "all_to_all_single: input");
    const auto outs = operands.output_splits(output, output_splits, n, "all_to_all_single: output");
    const bool uneven = !input_splits.empty() || !output_splits.empty();
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.all_to_all(ins, outs, uneven, std::move(o));
    });
    return hand_out({std::move(work)}, OpType::ALLTOALL_BASE, {output});
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::alltoall(Tensors& outputs, Tensors& inputs,
                                                      const c10d::AllToAllOptions& opts) {
  return translated([&] {
    Operands operands;
    const auto ins = operands.inputs(inputs, "all_to_all: input");
    const auto outs = operands.outputs(outputs, "all_to_all: output");
    auto work = start(operands, opts.timeout, opts.asyncOp, [&](Communicator& c, CallOptions o) {
      return c.all_to_all(ins, outs, /*uneven=*/true, std::move(o));
    });
    return hand_out({std::move(work)}, OpType::ALLTOALL, outputs);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::send(Tensors& tensors, int to, int tag) {
  return translated([&] {
    Operands operands;
    const View data = operands.input(only(tensors, "send"), "send: tensor");
    auto work =
        start(operands, kNoTimeout, /*background=*/true,
              [&](Communicator& c, CallOptions o) { return c.send(data, to, tag, std::move(o)); });
    return hand_out({std::move(work)}, OpType::SEND, {});
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::recv(Tensors& tensors, int from, int tag) {
  return translated([&] {
    Operands operands;
    const View data = operands.output(only(tensors, "recv"), "recv: tensor");
    auto work = start(
        operands, kNoTimeout, /*background=*/true,
        [&](Communicator& c, CallOptions o) { return c.recv(data, from, tag, std::move(o)); });
    return hand_out({std::move(work)}, from == kAnySource ? OpType::RECVANYSOURCE : OpType::RECV,
                    tensors);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::recvAnysource(Tensors& tensors, int tag) {
  return recv(tensors, kAnySource, tag);
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::barrier(const c10d::BarrierOptions& opts) {
  return translated([&] {
    auto work = start(Operands(), opts.timeout, opts.asyncOp,
                      [&](Communicator& c, CallOptions o) { return c.barrier(std::move(o)); });
    return hand_out({std::move(work)}, OpType::BARRIER, {});
  });
}

}  // namespace quoit
