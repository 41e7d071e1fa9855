// What goes from some ranks to some ranks of an NCCL group: all_to_all, gather, scatter, messages,
// and the barrier.
#include "torch/nccl_group.h"
#include "torch/nccl_tensors.h"
#include "torch/process_group.h"

namespace quoit {

// A send and a recv for each pair, in one group of NCCL's calls; the own part is a copy.
void NcclGroup::add_all_to_all(Plan& plan, Tensors outputs, Tensors inputs) const {
  const auto me = static_cast<std::size_t>(rank_);
  check_fits(inputs[me], outputs[me], 1, "all_to_all");
  plan.before.emplace_back([to = outputs[me], from = inputs[me]] { to.copy_(from); });
  plan.grouped = true;
  plan.issue.emplace_back([me, outs = std::move(outputs), ins = std::move(inputs)](Issue& on) {
    for (std::size_t peer = 0; peer < outs.size(); ++peer) {
      if (peer != me) on.exchange(ins[peer], outs[peer], static_cast<int>(peer));
    }
  });
}

void NcclGroup::Issue::exchange(const at::Tensor& in, const at::Tensor& out, int peer) const {
  if (in.defined() && in.numel() > 0)
    check(nccl.send(in.const_data_ptr(), nccl_bytes(in), kNcclByte, peer, comm(), stream),
          "ncclSend");
  if (out.defined() && out.numel() > 0)
    check(nccl.recv(out.data_ptr(), nccl_bytes(out), kNcclByte, peer, comm(), stream), "ncclRecv");
}

// Rank by rank, beginning with the next: so not all send to the same one first.
void NcclGroup::Issue::exchange(const DeviceExchange& all, int rank) const {
  const auto n = all.given.size();
  const auto me = static_cast<std::size_t>(rank);
  for (std::size_t d = 1; d < n; ++d) {
    const std::size_t to = (me + d) % n, from = (me + n - d) % n;
    const View& given = all.given[to];
    const View& taken = all.taken[from];
    if (given.count > 0)
      check(nccl.send(given.data, given.count, kNcclByte, static_cast<int>(to), comm(), stream),
            "ncclSend");
    if (taken.count > 0)
      check(nccl.recv(taken.data, taken.count, kNcclByte, static_cast<int>(from), comm(), stream),
            "ncclRecv");
  }
}

NcclGroup::Handle NcclGroup::alltoall_base(at::Tensor& output, at::Tensor& input,
                                           std::vector<int64_t>& output_splits,
                                           std::vector<int64_t>& input_splits,
                                           const c10d::AllToAllOptions& opts) {
  return translated([&] {
    Plan call = plan(c10d::OpType::ALLTOALL_BASE, opts);
    auto ins = split_bytes(call.input(input, "all_to_all_single: input"), input_splits, size_,
                           "all_to_all_single: input");
    auto outs = split_bytes(call.output(output, "all_to_all_single: output"), output_splits, size_,
                            "all_to_all_single: output");
    add_all_to_all(call, std::move(outs), std::move(ins));
    call.inputs = {input};
    call.outputs = {output};
    return run(std::move(call));
  });
}

NcclGroup::Handle NcclGroup::alltoall(Tensors& outputs, Tensors& inputs,
                                      const c10d::AllToAllOptions& opts) {
  return translated([&] {
    Plan call = plan(c10d::OpType::ALLTOALL, opts);
    Tensors outs = call.byte_outputs(outputs, size_, "all_to_all: output");
    Tensors ins = call.byte_inputs(inputs, size_, "all_to_all: input");
    add_all_to_all(call, std::move(outs), std::move(ins));
    call.inputs = inputs;
    call.outputs = outputs;
    return run(std::move(call));
  });
}

NcclGroup::Handle NcclGroup::gather(std::vector<Tensors>& outputs, Tensors& inputs,
                                    const c10d::GatherOptions& opts) {
  return translated([&] {
    Plan call = plan(c10d::OpType::GATHER, opts);
    const int root = static_cast<int>(opts.rootRank);
    const at::Tensor in = as_bytes(call.input(only(inputs, "gather: input"), "gather: input"));
    Tensors outs;
    if (rank_ == root) {
      QUOIT_CHECK(outputs.size() == 1, UsageError,
                  "gather: the root must pass one list of outputs");
      call.outputs = outputs.front();
      outs = call.byte_outputs(call.outputs, size_, "gather: output");
      const at::Tensor& own = outs[static_cast<std::size_t>(rank_)];
      check_fits(in, own, 1, "gather");
      call.before.emplace_back([own, in] { own.copy_(in); });
    }
    call.inputs = inputs;
    call.grouped = true;
    call.issue.emplace_back([root, in, outs, me = rank_](Issue& on) {
      if (me != root) return on.exchange(in, {}, root);
      for (int peer = 0; peer < static_cast<int>(outs.size()); ++peer)
        if (peer != me) on.exchange({}, outs[static_cast<std::size_t>(peer)], peer);
    });
    return run(std::move(call));
  });
}

NcclGroup::Handle NcclGroup::scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                     const c10d::ScatterOptions& opts) {
  return translated([&] {
    Plan call = plan(c10d::OpType::SCATTER, opts);
    const int root = static_cast<int>(opts.rootRank);
    const at::Tensor out =
        as_bytes(call.output(only(outputs, "scatter: output"), "scatter: output"));
    Tensors ins;
    if (rank_ == root) {
      QUOIT_CHECK(inputs.size() == 1, UsageError, "scatter: the root must pass one list of inputs");
      call.inputs = inputs.front();
      ins = call.byte_inputs(call.inputs, size_, "scatter: input");
      const at::Tensor& own = ins[static_cast<std::size_t>(rank_)];
      check_fits(own, out, 1, "scatter");
      call.before.emplace_back([out, own] { out.copy_(own); });
    }
    call.outputs = outputs;
    call.grouped = true;
    call.issue.emplace_back([root, out, ins, me = rank_](Issue& on) {
      if (me != root) return on.exchange({}, out, root);
      for (int peer = 0; peer < static_cast<int>(ins.size()); ++peer)
        if (peer != me) on.exchange(ins[static_cast<std::size_t>(peer)], {}, peer);
    });
    return run(std::move(call));
  });
}

NcclGroup::Handle NcclGroup::message(const at::Tensor& tensor, int peer, bool sending) {
  QUOIT_CHECK(peer >= 0 && peer < size_ && peer != rank_, UsageError,
              sending ? "send to" : "recv from", " rank ", peer, " by rank ", rank_, " of ", size_,
              ": name another rank of the group");
  const std::scoped_lock lock(calling_);
  bind(tensor.device());
  Plan call(sending ? c10d::OpType::SEND : c10d::OpType::RECV);
  const c10::DeviceGuard on(*device_);
  const at::Tensor data =
      sending ? call.input(tensor, "send: tensor") : call.output(tensor, "recv: tensor");
  const auto current = c10::impl::VirtualGuardImpl(device_->type()).getStream(*device_);
  if (!is_capturing(current)) {  // else they must have met: see transfer
    const std::string why = unusable(*device_, peer);
    QUOIT_CHECK(why.empty(), UnavailableError, "NCCL cannot serve this group: ", why);
  }
  std::function<void()> after;
  if (!call.copies_back.empty()) after = call.copies_back.front();
  auto transfer = state_->transfer(
      library_, {sending, peer, data, std::move(after), timeout_of(c10d::kUnsetTimeout)});
  if (!transfer->issued) nccl_watch(state_);
  (sending ? call.inputs : call.outputs) = {tensor};
  if (region_ && region_->thread == std::this_thread::get_id()) {
    region_->messages.push_back(transfer);
    region_->outputs.insert(region_->outputs.end(), call.outputs.begin(), call.outputs.end());
  }
  return hand_out({std::move(transfer)}, call);
}

// NCCL has no tags: messages of a pair come in the order in which they were sent.
NcclGroup::Handle NcclGroup::send(Tensors& tensors, int to, int /*tag*/) {
  return translated([&] { return message(only(tensors, "send"), to, true); });
}

NcclGroup::Handle NcclGroup::recv(Tensors& tensors, int from, int tag) {
  if (from < 0) return recvAnysource(tensors, tag);
  return translated([&] { return message(only(tensors, "recv"), from, false); });
}

NcclGroup::Handle NcclGroup::recvAnysource(Tensors& /*tensors*/, int /*tag*/) {
  return translated([]() -> Handle {
    throw UsageError(
        "recv from any source: NCCL must know the sender. Name its rank, or receive into a tensor "
        "in host memory, which may come from anybody");
  });
}

NcclGroup::Handle NcclGroup::barrier(const c10d::BarrierOptions& opts) {
  return translated([&] {
    Plan call = plan(c10d::OpType::BARRIER, opts);
    const std::scoped_lock lock(calling_);
    call.async = true;  // the Work waits for the device
    add_all_reduce(call, at::zeros({1}, at::device(device_of_barrier(opts)).dtype(at::kByte)),
                   c10d::ReduceOp::MAX);
    call.value = {call.uses.front()};
    return run(std::move(call));
  });
}

}  // namespace quoit
