#pragma once
#include <torch/csrc/distributed/c10d/Work.hpp>

#include "torch/nccl_state.h"

namespace quoit {

// torch's handle on operations of NCCL. wait() lets the current stream wait, and not the host.
class WorkNccl final : public c10d::Work {
 public:
  using Calls = std::vector<std::shared_ptr<NcclCall>>;

  // `value` is what the future holds, where that is not the outputs. A barrier's wait() returns
  // when the device has done it.
  WorkNccl(std::shared_ptr<NcclState> state, Calls calls, c10d::OpType type,
           std::vector<at::Tensor> outputs, const std::vector<at::Tensor>& inputs,
           std::vector<at::Tensor> value);

  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  int sourceRank() const override { return calls_.empty() ? -1 : calls_.front()->peer; }
  std::vector<at::Tensor> result() override { return outputs_; }
  void synchronize() override { wait(kNoTimeout); }
  bool wait(std::chrono::milliseconds timeout) override;
  void blockCurrentStream() { wait(kNoTimeout); }  // torch 2.9 may lack it: hence no `override`
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
  uint64_t getSequencenumber() const override {
    return calls_.empty() ? 0 : calls_.front()->sequence;
  }

 private:
  void follow(NcclCall& call, Deadline deadline, bool on_host);

  const std::shared_ptr<NcclState> state_;
  const Calls calls_;
  const std::vector<at::Tensor> outputs_;
  const std::vector<at::Tensor> value_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;  // made at the first getFuture
};

}  // namespace quoit
