#include "torch/work.h"

#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <torch/python.h>

#include <utility>

namespace quoit {
namespace {

thread_local bool futures_in_order = false;

// What a future holds. Hooks of torch expect all_gather's as NCCL has it: one tensor of all.
at::IValue value_of(c10d::OpType type, const std::vector<at::Tensor>& outputs) {
  if (type != c10d::OpType::ALLGATHER || outputs.empty()) return outputs;
  for (const at::Tensor& output : outputs)
    if (output.sizes() != outputs.front().sizes()) return outputs;
  return std::vector{at::stack(outputs)};
}

// On an accelerator, the future stands for what is on the current stream: on one of its own, as
// what the caller has put on this thread's is none of the future's business.
void complete(c10::ivalue::Future& future, c10d::OpType type,
              const std::vector<Communicator::Handle>& parts,
              const std::vector<at::Tensor>& outputs) {
  c10::OptionalStreamGuard on;
  if (!future.devices().empty()) {
    const c10::Device device = future.devices().front();
    const c10::impl::VirtualGuardImpl guard(device.type());
    on.reset_stream(guard.getStreamFromGlobalPool(device));
    for (const auto& part : parts) part->join();
  }
  future.markCompleted(value_of(type, outputs));
}

}  // namespace

const char* title_of(c10d::OpType type) {
  switch (type) {
    case c10d::OpType::BROADCAST:
      return "quoit:broadcast";
    case c10d::OpType::ALLREDUCE:
    case c10d::OpType::ALLREDUCE_COALESCED:
      return "quoit:all_reduce";
    case c10d::OpType::_ALLREDUCE_SPARSE:
      return "quoit:sparse_all_reduce";
    case c10d::OpType::REDUCE:
      return "quoit:reduce";
    case c10d::OpType::ALLGATHER:
    case c10d::OpType::_ALLGATHER_BASE:
      return "quoit:all_gather";
    case c10d::OpType::GATHER:
      return "quoit:gather";
    case c10d::OpType::SCATTER:
      return "quoit:scatter";
    case c10d::OpType::REDUCE_SCATTER:
    case c10d::OpType::_REDUCE_SCATTER_BASE:
      return "quoit:reduce_scatter";
    case c10d::OpType::ALLTOALL:
    case c10d::OpType::ALLTOALL_BASE:
      return "quoit:all_to_all";
    case c10d::OpType::SEND:
      return "quoit:send";
    case c10d::OpType::RECV:
      return "quoit:recv";
    case c10d::OpType::RECVANYSOURCE:
      return "quoit:recvAnySource";
    case c10d::OpType::BARRIER:
      return "quoit:barrier";
    default:
      return "quoit:coalesced";
  }
}

std::string words_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  } catch (...) {
    return message_of(error);
  }
}

FuturesInOrder::FuturesInOrder() : before_(std::exchange(futures_in_order, true)) {}

FuturesInOrder::~FuturesInOrder() { futures_in_order = before_; }

std::exception_ptr as_torch_error(const std::exception_ptr& error) {
  const c10::SourceLocation here{__func__, __FILE__, static_cast<uint32_t>(__LINE__)};
  try {
    std::rethrow_exception(error);
  } catch (const UsageError& e) {
    return std::make_exception_ptr(c10::ValueError(here, e.what()));
  } catch (const Error& e) {
    return std::make_exception_ptr(c10::DistBackendError(here, e.what()));
  } catch (...) {
    return error;
  }
}

bool WorkQuoit::profiled() { return at::hasCallbacks(); }

WorkQuoit::WorkQuoit(std::shared_ptr<Communicator> communicator,
                     std::vector<Communicator::Handle> parts, c10d::OpType type,
                     std::vector<at::Tensor> outputs, const std::vector<at::Tensor>& inputs)
    : Work(communicator->rank(), type, profiled() ? title_of(type) : nullptr,
           profiled() ? std::optional(inputs) : std::nullopt),
      communicator_(std::move(communicator)),
      parts_(std::move(parts)),
      outputs_(std::move(outputs)) {
  if (!recordFunctionEndCallback_) return;
  over_ = [once = std::make_shared<std::once_flag>(), end = recordFunctionEndCallback_] {
    std::call_once(*once, end);
  };
  auto left = std::make_shared<std::atomic<std::size_t>>(parts_.size());
  for (const auto& part : parts_)
    part->when_done([left, over = over_] {
      if (left->fetch_sub(1) == 1) over();
    });
}

bool WorkQuoit::isCompleted() {
  for (const auto& part : parts_)
    if (!part->done()) return false;
  return true;
}

bool WorkQuoit::isSuccess() const {
  for (const auto& part : parts_)
    if (!part->done() || part->error()) return false;
  return true;
}

std::exception_ptr WorkQuoit::exception() const {
  for (const auto& part : parts_)
    if (part->done() && part->error()) return as_torch_error(part->error());
  return nullptr;
}

int WorkQuoit::sourceRank() const { return parts_.front()->source(); }

bool WorkQuoit::wait(std::chrono::milliseconds timeout) {
  const Deadline deadline = timeout > kNoTimeout ? Deadline::after(timeout) : Deadline();
  try {
    for (const auto& part : parts_) communicator_->engine().wait(*part, deadline);
    for (const auto& part : parts_) part->join();
  } catch (const Error&) {
    std::rethrow_exception(
        as_torch_error(said_by(communicator_->where(), std::current_exception())));
  }
  if (over_) over_();
  return true;
}

c10::intrusive_ptr<c10::ivalue::Future> WorkQuoit::getFuture() {
  if (futures_in_order) {
    // Callbacks of earlier futures, on other threads, may need Python too.
    std::optional<py::gil_scoped_release> others_run;
    if (PyGILState_Check()) others_run.emplace();
    wait();
  }
  const std::lock_guard lock(mutex_);
  if (future_) return future_;
  std::vector<c10::Device> devices;
  for (const at::Tensor& output : outputs_)
    if (!output.device().is_cpu()) devices = {output.device()};
  future_ = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()),
                                                     devices);
  // The last part to end marks the future; the pieces hold no reference to this Work.
  auto left = std::make_shared<std::atomic<std::size_t>>(parts_.size());
  const auto done = [left, type = opType_, parts = parts_, outputs = outputs_, future = future_] {
    if (left->fetch_sub(1) > 1) return;
    for (const auto& part : parts)
      if (part->error()) return future->setError(as_torch_error(part->error()));
    complete(*future, type, parts, outputs);
  };
  if (parts_.empty()) future_->markCompleted(value_of(opType_, outputs_));
  for (const auto& part : parts_) part->when_done(done);
  // Whoever waits for a future does not drive.
  communicator_->engine().drive_in_background();
  return future_;
}

uint64_t WorkQuoit::getSequencenumber() const {
  return parts_.empty() ? 0 : parts_.front()->call().sequence;
}

}  // namespace quoit
