#include "torch/nccl_group.h"

#include <ATen/DeviceAccelerator.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <cstring>

#include "core/env.h"
#include "core/host.h"
#include "engine/engine.h"

namespace quoit {
namespace {

constexpr Seconds kNcclEndWithin{10.0};  // what a shutdown gives to calls in flight
constexpr Seconds kNcclDropWithin{2.0};

}  // namespace

NcclGroup::NcclGroup(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                     NcclOptions options)
    : Backend(rank, size),
      options_(std::move(options)),
      timeout_(std::chrono::duration_cast<std::chrono::milliseconds>(options_.timeout)),
      state_(
          std::make_shared<NcclEdges>(store, rank, size, text("rank ", rank, " on ", host_name()))),
      off_(env::read("QUOIT_NCCL") == "off") {
  if (off_) introduce();
}

// Without a shutdown. What other ranks still receive gets a moment; a program that ends by an error
// must not wait for long. Python may be who drops it, and what the watch lets go of meanwhile,
// under its lock, may be Python's.
NcclGroup::~NcclGroup() {
  std::optional<py::gil_scoped_release> others_run;
  if (Py_IsInitialized() != 0 && PyGILState_Check() != 0) others_run.emplace();
  try {
    state_->close(Deadline::after(kNcclDropWithin));
  } catch (const std::exception&) {  // the device has failed
  }
}

c10::intrusive_ptr<c10d::Backend::Options> NcclGroup::getBackendOptions() {
  return c10::make_intrusive<Options>("quoit-nccl", timeout_.load());
}

void NcclGroup::abort() {
  try {
    throw TransportError("the process group was aborted");
  } catch (const Error&) {
    state_->fail(std::current_exception());
  }
  state_->end_failed();
}

void NcclGroup::shutdown() {
  const std::scoped_lock lock(calling_);
  state_->close(Deadline::after(std::min(kNcclEndWithin, timeout_of(c10d::kUnsetTimeout))));
  communicator_.reset();
}

Seconds NcclGroup::timeout_of(std::chrono::milliseconds asked) const {
  return asked.count() > 0 ? asked : timeout_.load();
}

void NcclGroup::bind(c10::Device device) {
  QUOIT_CHECK(!state_->closed(), TransportError,
              "this process group was shut down: call init_process_group again");
  state_->check();
  QUOIT_CHECK(!device.is_cpu(), UsageError,
              "a tensor is on the CPU, which NCCL does not serve: move it to the accelerator");
  if (!device.has_index()) device = c10::impl::VirtualGuardImpl(device.type()).getDevice();
  if (!device_) device_ = device;
  QUOIT_CHECK(device == *device_, UsageError, "a tensor is on ", device.str(),
              ", but this group of this process is on ", device_->str(),
              " since its first call: a rank has one device; move the tensor there");
}

c10::Device NcclGroup::device_of_barrier(const c10d::BarrierOptions& opts) const {
  if (device_) return *device_;
  if (opts.device) return *opts.device;
  if (const auto bound = getBoundDeviceId()) return *bound;
  const c10::impl::VirtualGuardImpl guard(*at::getAccelerator(/*checked=*/true));
  if (opts.device_ids.empty()) return guard.getDevice();
  return {guard.type(), static_cast<c10::DeviceIndex>(opts.device_ids.front())};
}

void NcclGroup::await_settled(NcclCommunicator& communicator, const NcclCall& call) {
  for (int looks = 0;; ++looks) {
    {
      const std::scoped_lock lock(state_->order);
      state_->check();
      if (communicator.settled()) return;
    }
    QUOIT_CHECK(!call.deadline.passed(), TimeoutError, call.said(), " over NCCL: waited ",
                call.timeout.count(),
                " s, and not all ranks came to make the communicator or to begin the operation");
    if (looks < 1000) {
      std::this_thread::yield();
      continue;
    }
    Engine::process().heed_interrupt();
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
}

// All ranks come to it in their first collective.
void NcclGroup::make_communicator(const NcclCall& call) {
  const std::string& why = unusable(*device_);
  QUOIT_CHECK(why.empty(), UnavailableError, "NCCL cannot serve this group: ", why);
  NcclUniqueId id;
  if (rank_ == 0) {
    library_->check(library_->calls.get_unique_id(&id), "ncclGetUniqueId", nullptr);
    state_->store.set("id", {id.bytes.data(), id.bytes.size()});
  } else {
    const auto told = state_->store.await(
        "id", [&] { return call.deadline.passed() || state_->failed() || state_->closed(); });
    state_->check();
    QUOIT_CHECK(told && told->size() == id.bytes.size(), TimeoutError, call.said(),
                " over NCCL: waited ", call.timeout.count(),
                " s for rank 0 to begin it: has it called the same operation?");
    std::memcpy(id.bytes.data(), told->data(), id.bytes.size());
  }
  std::shared_ptr<NcclCommunicator> made;
  {
    const std::scoped_lock lock(state_->order);
    made = std::make_shared<NcclCommunicator>(*library_, id, size_, rank_, *device_);
    state_->add(made);
  }
  await_settled(*made, call);
  communicator_ = std::move(made);
}

NcclOp NcclGroup::Issue::op(const NcclReduction& reduction) {
  if (!reduction.premultiplied) return reduction.op;
  auto factor = nccl_factor(reduction);
  NcclOp made = 0;
  check(nccl.red_op_create_pre_mul_sum(&made, factor.data(), reduction.type,
                                       kNcclScalarHostImmediate, comm()),
        "ncclRedOpCreatePreMulSum");
  made_ops.push_back(made);
  return made;
}

void NcclGroup::issue(Issue& on, const NcclCall& call, bool grouped,
                      const std::function<void()>& calls) {
  {
    const std::scoped_lock lock(state_->order);
    state_->check();
    if (grouped) on.check(on.nccl.group_start(), "ncclGroupStart");
    try {
      calls();
    } catch (...) {
      if (grouped) on.nccl.group_end();
      throw;
    }
    if (grouped) on.check(on.nccl.group_end(), "ncclGroupEnd");
  }
  await_settled(*communicator_, call);
}

void NcclGroup::call_nccl(Plan& plan, const c10::Stream& stream, const NcclCall& call) {
  const c10::StreamGuard in(stream);
  for (const auto& copy : plan.before) copy();
  Issue on{library_->calls, *communicator_, native_handle(stream)};
  if (!plan.issue.empty())
    issue(on, call, plan.grouped || plan.issue.size() > 1, [&] {
      for (const auto& function : plan.issue) function(on);
    });
  if (!on.made_ops.empty()) {
    const std::scoped_lock lock(state_->order);
    state_->check();
    for (const NcclOp op : on.made_ops) on.nccl.red_op_destroy(op, on.comm());
  }
  Steps steps{static_cast<cuda::Stream>(on.stream), call.sequence, [&](DeviceExchange all) -> Task {
                issue(on, call, true, [&] { on.exchange(all, rank_); });
                co_return;
              }};
  for (const auto& step : plan.steps) step(steps);
  for (const auto& copy : plan.after) copy();
  for (const auto& copy : plan.copies_back) copy();
}

// Asynchronous calls go into the communicator's stream, which waits for the caller's; others into
// the caller's own, which spares the events and the bookkeeping of memory.
std::shared_ptr<NcclCall> NcclGroup::launch(Plan& plan) {
  const std::scoped_lock lock(calling_);
  for (const at::Tensor& tensor : plan.uses) bind(tensor.device());
  const c10::impl::VirtualGuardImpl guard(device_->type());
  const c10::DeviceGuard on(*device_);
  const c10::Stream current = guard.getStream(*device_);
  const bool captured = is_capturing(current);
  auto call =
      std::make_shared<NcclCall>(plan.type, state_->called + 1, current, timeout_of(plan.timeout));
  if (plan.inputs.size() == 1) {
    call->dtype = plan.inputs.front().scalar_type();
    call->count = plan.inputs.front().numel();
  }
  call->captured = captured;
  if (!communicator_) {
    QUOIT_CHECK(!captured, UsageError, call->said(),
                " in a graph capture is the first collective of its group, which makes the "
                "communicator, and that cannot be captured: call one before");
    make_communicator(*call);
  }
  ++state_->called;
  if (plan.async) call->stream = communicator_->stream();
  const c10::Stream stream = call->stream;
  if (stream != current) {
    if (!begin_) begin_.emplace(device_->type());
    begin_->record(current);
    begin_->block(stream);
  }
  if (last_ && last_->stream != stream && !captured) last_->end.block(stream);
  call_nccl(plan, stream, *call);
  if (stream != current)
    for (const at::Tensor& tensor : plan.uses)
      guard.recordDataPtrOnStream(tensor.storage().data_ptr(), stream);
  call->end.record(stream);
  call->issued = true;
  last_ = captured ? nullptr : call;
  if (!captured) state_->watch(call);
  return call;
}

NcclGroup::Handle NcclGroup::hand_out(WorkNccl::Calls calls, const Plan& plan) const {
  return c10::make_intrusive<WorkNccl>(state_, std::move(calls), plan.type, plan.outputs,
                                       plan.inputs, plan.value);
}

NcclGroup::Handle NcclGroup::run(Plan plan) {
  const std::scoped_lock lock(calling_);
  if (region_ && region_->thread == std::this_thread::get_id()) {
    if (region_->plan)
      region_->plan->join(std::move(plan));
    else
      region_->plan = std::move(plan);
    return nullptr;
  }
  auto call = launch(plan);
  const bool seen =
      plan.async || WorkQuoit::profiled() || c10d::allow_inflight_collective_as_graph_input();
  return seen ? hand_out({std::move(call)}, plan) : nullptr;
}

void NcclGroup::startCoalescing() {
  const std::scoped_lock lock(calling_);
  region_.emplace();
  region_->thread = std::this_thread::get_id();
}

NcclGroup::Handle NcclGroup::endCoalescing() {
  return translated([&] {
    const std::scoped_lock lock(calling_);
    QUOIT_CHECK(region_, UsageError, "endCoalescing without startCoalescing");
    Region region = std::move(*region_);
    region_.reset();
    Plan plan(c10d::OpType::COALESCED);
    if (region.plan) plan.join(std::move(*region.plan));
    WorkNccl::Calls calls = std::move(region.messages);
    if (!plan.issue.empty() || !plan.steps.empty()) calls.push_back(launch(plan));
    plan.outputs.insert(plan.outputs.end(), region.outputs.begin(), region.outputs.end());
    return hand_out(std::move(calls), plan);
  });
}

}  // namespace quoit
