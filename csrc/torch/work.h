#pragma once
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <vector>

#include "collective/communicator.h"

namespace quoit {

// torch's handle on one call, which may be several operations of ours (the coalesced ones).
class WorkQuoit final : public c10d::Work {
 public:
  // Whether a profiler listens, which must see when an operation begins and ends.
  static bool profiled();

  // `outputs` are what the future's value and result() hold; `inputs` what a profiler is told of.
  WorkQuoit(std::shared_ptr<Communicator> communicator, std::vector<Communicator::Handle> parts,
            c10d::OpType type, std::vector<at::Tensor> outputs,
            const std::vector<at::Tensor>& inputs);

  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  int sourceRank() const override;
  std::vector<at::Tensor> result() override { return outputs_; }
  void synchronize() override { wait(); }
  bool wait(std::chrono::milliseconds timeout) override;
  bool wait() { return wait(kNoTimeout); }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
  uint64_t getSequencenumber() const override;

 private:
  const std::shared_ptr<Communicator> communicator_;
  const std::vector<Communicator::Handle> parts_;
  const std::vector<at::Tensor> outputs_;
  std::function<void()> over_;  // tells a profiler that the operation is over; once, if one listens
  c10::intrusive_ptr<c10::ivalue::Future> future_;  // made at the first getFuture
};

// While one lives, the futures that this thread asks for are complete when it gets them, so that
// callbacks run at once: what they call on a group comes in the order of the program, on all ranks.
class FuturesInOrder {
 public:
  FuturesInOrder();
  ~FuturesInOrder();
  FuturesInOrder(const FuturesInOrder&) = delete;
  FuturesInOrder& operator=(const FuturesInOrder&) = delete;

 private:
  const bool before_;
};

// Our error as the one that torch's users expect: ValueError for a wrong call, DistBackendError for
// everything else.
std::exception_ptr as_torch_error(const std::exception_ptr& error);

// What an error says, without the page of addresses that c10's has.
std::string words_of(const std::exception_ptr& error);

// The name of an operation in profiles, as gloo has them: "quoit:all_reduce".
const char* title_of(c10d::OpType type);

}  // namespace quoit
