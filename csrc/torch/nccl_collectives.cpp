// The collectives on NCCL: each checks its arguments and says what is to be called.
#include "torch/nccl_group.h"
#include "torch/nccl_tensors.h"
#include "torch/process_group.h"
#include "torch/tensors.h"

namespace quoit {
namespace {

using c10d::OpType;

void divide_by(const at::Tensor& tensor, int size) { tensor.div_(size, "trunc"); }

}  // namespace

NcclGroup::Handle NcclGroup::broadcast(Tensors& tensors, const c10d::BroadcastOptions& opts) {
  return translated([&] {
    Plan call = plan(OpType::BROADCAST, opts);
    const int root = static_cast<int>(opts.rootRank);
    const at::Tensor& given = only(tensors, "broadcast");
    const at::Tensor data = rank_ == root ? call.input(given, "broadcast: tensor")
                                          : call.output(given, "broadcast: tensor");
    call.inputs = call.outputs = tensors;
    call.issue.emplace_back([data, root](Issue& on) {
      on.check(on.nccl.broadcast(data.data_ptr(), data.data_ptr(), nccl_bytes(data), kNcclByte,
                                 root, on.comm(), on.stream),
               "ncclBroadcast");
    });
    return run(std::move(call));
  });
}

void NcclGroup::add_all_reduce(Plan& plan, const at::Tensor& tensor,
                               const c10d::ReduceOp& op) const {
  const NcclReduction reduction = nccl_reduction(op, tensor);
  const at::Tensor data = plan.in_place(tensor, "all_reduce: tensor");
  plan.issue.emplace_back([data, reduction](Issue& on) {
    on.check(on.nccl.all_reduce(data.data_ptr(), data.data_ptr(), nccl_count(data), reduction.type,
                                on.op(reduction), on.comm(), on.stream),
             "ncclAllReduce");
  });
  if (reduction.divide) plan.after.emplace_back([data, n = size_] { divide_by(data, n); });
}

NcclGroup::Handle NcclGroup::allreduce(Tensors& tensors, const c10d::AllreduceOptions& opts) {
  return translated([&] {
    Plan call = plan(OpType::ALLREDUCE, opts);
    add_all_reduce(call, only(tensors, "all_reduce"), opts.reduceOp);
    call.inputs = call.outputs = tensors;
    return run(std::move(call));
  });
}

NcclGroup::Handle NcclGroup::allreduce_coalesced(Tensors& tensors,
                                                 const c10d::AllreduceCoalescedOptions& opts) {
  return translated([&] {
    Plan call = plan(OpType::ALLREDUCE_COALESCED, opts);
    for (const at::Tensor& tensor : tensors) add_all_reduce(call, tensor, opts.reduceOp);
    call.inputs = call.outputs = tensors;
    return run(std::move(call));
  });
}

NcclGroup::Handle NcclGroup::reduce(Tensors& tensors, const c10d::ReduceOptions& opts) {
  return translated([&] {
    Plan call = plan(OpType::REDUCE, opts);
    const int root = static_cast<int>(opts.rootRank);
    const at::Tensor& given = only(tensors, "reduce");
    const NcclReduction reduction = nccl_reduction(opts.reduceOp, given);
    const bool mine = rank_ == root;
    const at::Tensor data =
        mine ? call.in_place(given, "reduce: tensor") : call.input(given, "reduce: tensor");
    call.inputs = call.outputs = tensors;
    call.issue.emplace_back([data, reduction, root, mine](Issue& on) {
      on.check(on.nccl.reduce(data.data_ptr(), mine ? data.data_ptr() : nullptr, nccl_count(data),
                              reduction.type, on.op(reduction), root, on.comm(), on.stream),
               "ncclReduce");
    });
    if (mine && reduction.divide)
      call.after.emplace_back([data, n = size_] { divide_by(data, n); });
    return run(std::move(call));
  });
}

// Of pieces of one size, one all_gather into memory of its own; of others, a broadcast of each.
void NcclGroup::add_all_gather(Plan& plan, const Tensors& outputs, const at::Tensor& input) const {
  check_list(outputs, size_, "all_gather: output");
  check_fits(input, outputs[static_cast<std::size_t>(rank_)], 1, "all_gather");
  const at::Tensor in = plan.input(input, "all_gather: input");
  Tensors outs;
  for (const at::Tensor& output : outputs)
    outs.push_back(plan.output(output, "all_gather: output"));
  if (all_alike(outs)) {
    const std::int64_t each = static_cast<std::int64_t>(in.nbytes());
    const at::Tensor all = plan.room(in, each * size_);
    plan.issue.emplace_back([in, all](Issue& on) {
      on.check(on.nccl.all_gather(in.data_ptr(), all.data_ptr(), nccl_bytes(in), kNcclByte,
                                  on.comm(), on.stream),
               "ncclAllGather");
    });
    plan.after.emplace_back([outs, all] {
      const auto n = static_cast<std::int64_t>(outs.size());
      for (std::int64_t i = 0; i < n; ++i)
        as_bytes(outs[static_cast<std::size_t>(i)]).copy_(piece_of(all, n, i));
    });
    if (only_moved(in)) return;
    std::vector<std::int64_t> shape = in.sizes().vec();
    shape.insert(shape.begin(), size_);
    plan.value = {all.view(in.scalar_type()).view(shape)};  // as hooks of torch expect it
    return;
  }
  plan.grouped = true;
  plan.issue.emplace_back([in, outs, me = rank_](Issue& on) {
    for (int root = 0; root < static_cast<int>(outs.size()); ++root) {
      const at::Tensor& out = outs[static_cast<std::size_t>(root)];
      if (out.numel() == 0) continue;
      const void* from = root == me ? in.const_data_ptr() : out.const_data_ptr();
      on.check(on.nccl.broadcast(from, out.data_ptr(), nccl_bytes(out), kNcclByte, root, on.comm(),
                                 on.stream),
               "ncclBroadcast");
    }
  });
}

NcclGroup::Handle NcclGroup::allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                                       const c10d::AllgatherOptions& opts) {
  return translated([&] {
    QUOIT_CHECK(outputs.size() == inputs.size(), UsageError, "all_gather: got ", inputs.size(),
                " inputs and ", outputs.size(), " lists of outputs: give one list for each input");
    Plan call = plan(OpType::ALLGATHER, opts);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      add_all_gather(call, outputs[i], inputs[i]);
      call.outputs.insert(call.outputs.end(), outputs[i].begin(), outputs[i].end());
    }
    if (inputs.size() != 1) call.value.clear();
    call.inputs = inputs;
    return run(std::move(call));
  });
}

void NcclGroup::add_gather_into(Plan& plan, const at::Tensor& output,
                                const at::Tensor& input) const {
  check_fits(input, output, size_, "all_gather_into_tensor");
  const at::Tensor in = plan.input(input, "all_gather_into_tensor: input");
  const at::Tensor out = plan.output(output, "all_gather_into_tensor: output");
  plan.issue.emplace_back([in, out](Issue& on) {
    on.check(on.nccl.all_gather(in.data_ptr(), out.data_ptr(), nccl_bytes(in), kNcclByte, on.comm(),
                                on.stream),
             "ncclAllGather");
  });
  plan.inputs.push_back(input);
  plan.outputs.push_back(output);
}

NcclGroup::Handle NcclGroup::_allgather_base(at::Tensor& output, at::Tensor& input,
                                             const c10d::AllgatherOptions& opts) {
  return translated([&] {
    Plan call = plan(OpType::_ALLGATHER_BASE, opts);
    add_gather_into(call, output, input);
    return run(std::move(call));
  });
}

// The other way round: outputs[r] is the list of what rank r puts in.
NcclGroup::Handle NcclGroup::allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs,
                                                 const c10d::AllgatherOptions& opts) {
  auto lists = translated([&] { return by_input(outputs, inputs.size(), size_); });
  return allgather(lists, inputs, opts);
}

NcclGroup::Handle NcclGroup::allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                             const c10d::AllgatherOptions& opts) {
  return translated([&] {
    QUOIT_CHECK(outputs.size() == inputs.size(), UsageError, "all_gather_into_tensor: got ",
                inputs.size(), " inputs and ", outputs.size(),
                " outputs: give one output for each input");
    Plan call = plan(OpType::_ALLGATHER_BASE, opts);
    for (std::size_t i = 0; i < inputs.size(); ++i) add_gather_into(call, outputs[i], inputs[i]);
    return run(std::move(call));
  });
}

// Of pieces of one size, one reduce_scatter out of memory of its own; of others, a reduce of each.
void NcclGroup::add_reduce_scatter(Plan& plan, const at::Tensor& output, const Tensors& inputs,
                                   const c10d::ReduceOp& op) const {
  check_list(inputs, size_, "reduce_scatter: input");
  check_fits(inputs[static_cast<std::size_t>(rank_)], output, 1, "reduce_scatter");
  const NcclReduction reduction = nccl_reduction(op, output);
  const at::Tensor out = plan.output(output, "reduce_scatter: output");
  Tensors ins;
  for (const at::Tensor& input : inputs) ins.push_back(plan.input(input, "reduce_scatter: input"));
  if (all_alike(ins)) {
    const at::Tensor all = plan.room(out, static_cast<std::int64_t>(out.nbytes()) * size_);
    plan.before.emplace_back([ins, all] {
      const auto n = static_cast<std::int64_t>(ins.size());
      for (std::int64_t i = 0; i < n; ++i)
        piece_of(all, n, i).copy_(as_bytes(ins[static_cast<std::size_t>(i)]));
    });
    plan.issue.emplace_back([all, out, reduction](Issue& on) {
      on.check(on.nccl.reduce_scatter(all.data_ptr(), out.data_ptr(), nccl_count(out),
                                      reduction.type, on.op(reduction), on.comm(), on.stream),
               "ncclReduceScatter");
    });
  } else {
    plan.grouped = true;
    plan.issue.emplace_back([ins, out, reduction, me = rank_](Issue& on) {
      const NcclOp how = on.op(reduction);
      for (int root = 0; root < static_cast<int>(ins.size()); ++root) {
        const at::Tensor& in = ins[static_cast<std::size_t>(root)];
        if (in.numel() == 0) continue;
        on.check(on.nccl.reduce(in.data_ptr(), root == me ? out.data_ptr() : nullptr,
                                nccl_count(in), reduction.type, how, root, on.comm(), on.stream),
                 "ncclReduce");
      }
    });
  }
  if (reduction.divide) plan.after.emplace_back([out, n = size_] { divide_by(out, n); });
}

NcclGroup::Handle NcclGroup::reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                            const c10d::ReduceScatterOptions& opts) {
  return translated([&] {
    QUOIT_CHECK(inputs.size() == 1, UsageError, "reduce_scatter: got ", inputs.size(),
                " lists of inputs; pass one");
    Plan call = plan(OpType::REDUCE_SCATTER, opts);
    add_reduce_scatter(call, only(outputs, "reduce_scatter: output"), inputs.front(),
                       opts.reduceOp);
    call.inputs = inputs.front();
    call.outputs = outputs;
    return run(std::move(call));
  });
}

void NcclGroup::add_reduce_out_of(Plan& plan, const at::Tensor& output, const at::Tensor& input,
                                  const c10d::ReduceOp& op) const {
  check_fits(output, input, size_, "reduce_scatter_tensor");
  const NcclReduction reduction = nccl_reduction(op, input);
  const at::Tensor out = plan.output(output, "reduce_scatter_tensor: output");
  const at::Tensor in = plan.input(input, "reduce_scatter_tensor: input");
  plan.issue.emplace_back([in, out, reduction](Issue& on) {
    on.check(on.nccl.reduce_scatter(in.data_ptr(), out.data_ptr(), nccl_count(out), reduction.type,
                                    on.op(reduction), on.comm(), on.stream),
             "ncclReduceScatter");
  });
  if (reduction.divide) plan.after.emplace_back([out, n = size_] { divide_by(out, n); });
  plan.inputs.push_back(input);
  plan.outputs.push_back(output);
}

NcclGroup::Handle NcclGroup::_reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                                  const c10d::ReduceScatterOptions& opts) {
  return translated([&] {
    Plan call = plan(OpType::_REDUCE_SCATTER_BASE, opts);
    add_reduce_out_of(call, output, input, opts.reduceOp);
    return run(std::move(call));
  });
}

NcclGroup::Handle NcclGroup::reduce_scatter_tensor_coalesced(
    Tensors& outputs, Tensors& inputs, const c10d::ReduceScatterOptions& opts) {
  return translated([&] {
    QUOIT_CHECK(outputs.size() == inputs.size(), UsageError, "reduce_scatter_tensor: got ",
                inputs.size(), " inputs and ", outputs.size(),
                " outputs: give one output for each input");
    Plan call = plan(OpType::_REDUCE_SCATTER_BASE, opts);
    for (std::size_t i = 0; i < inputs.size(); ++i)
      add_reduce_out_of(call, outputs[i], inputs[i], opts.reduceOp);
    return run(std::move(call));
  });
}

}  // namespace quoit
