#include "torch/nccl_work.h"

#include <torch/csrc/utils/pybind.h>

#include "torch/work.h"

namespace quoit {

WorkNccl::WorkNccl(std::shared_ptr<NcclState> state, Calls calls, c10d::OpType type,
                   std::vector<at::Tensor> outputs, const std::vector<at::Tensor>& inputs,
                   std::vector<at::Tensor> value)
    : Work(state->rank, type, WorkQuoit::profiled() ? title_of(type) : nullptr,
           WorkQuoit::profiled() ? std::optional(inputs) : std::nullopt),
      state_(std::move(state)),
      calls_(std::move(calls)),
      outputs_(std::move(outputs)),
      value_(std::move(value)) {
  // What a profiler sees of it on the host is over; the device's side it learns from the device.
  if (recordFunctionEndCallback_) recordFunctionEndCallback_();
}

bool WorkNccl::isCompleted() {
  for (const auto& call : calls_)
    if (!call->failed && !call->done()) return false;
  return true;
}

bool WorkNccl::isSuccess() const {
  for (const auto& call : calls_)
    if (!call->done()) return false;
  return true;
}

std::exception_ptr WorkNccl::exception() const {
  for (const auto& call : calls_) {
    try {
      state_->check(*call);
    } catch (const Error&) {
      return as_torch_error(said_by(state_->where, std::current_exception()));
    }
  }
  return nullptr;
}

void WorkNccl::follow(NcclCall& call, Deadline deadline, bool on_host) {
  state_->check(call);
  if (on_host && !call.captured)
    state_->await_done(call, deadline);
  else
    state_->await_issued(call, deadline);
  const c10::Device device = call.stream.device();
  call.end.block(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
}

bool WorkNccl::wait(std::chrono::milliseconds timeout) {
  const bool limited = timeout > kNoTimeout;
  const Deadline deadline = limited ? Deadline::after(timeout) : Deadline();
  try {
    for (const auto& call : calls_)
      follow(*call, deadline, limited || opType_ == c10d::OpType::BARRIER);
  } catch (const Error&) {
    std::rethrow_exception(as_torch_error(said_by(state_->where, std::current_exception())));
  }
  return true;
}

// Complete as soon as everything is issued: whoever uses the value waits in streams.
c10::intrusive_ptr<c10::ivalue::Future> WorkNccl::getFuture() {
  if (future_) return future_;
  if (calls_.empty()) return Work::getFuture();
  const c10::Device device = calls_.front()->stream.device();
  auto future = c10::make_intrusive<c10::ivalue::Future>(
      c10::ListType::create(c10::TensorType::get()), std::vector{device});
  std::optional<py::gil_scoped_release> others_run;
  if (PyGILState_Check()) others_run.emplace();
  try {
    for (const auto& call : calls_) {
      state_->check(*call);
      state_->await_issued(*call, {});
    }
    const c10::StreamGuard in(calls_.front()->stream);
    for (const auto& call : calls_)
      if (call != calls_.front()) call->end.block(calls_.front()->stream);
    future->markCompleted(value_.empty() ? outputs_ : value_);
  } catch (const Error&) {
    future->setError(as_torch_error(said_by(state_->where, std::current_exception())));
  }
  return future_ = future;
}

}  // namespace quoit
