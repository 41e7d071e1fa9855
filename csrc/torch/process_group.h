#pragma once
// torch.distributed's backend "quoit": turns each call of c10d into one of Communicator.
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "collective/connect.h"
#include "torch/tensors.h"
#include "torch/work.h"

namespace quoit {

class ProcessGroupQuoit final : public c10d::Backend {
 public:
  using Handle = c10::intrusive_ptr<c10d::Work>;
  using Tensors = std::vector<at::Tensor>;

  // Collective over the members, who meet through `store`.
  ProcessGroupQuoit(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                    const ConnectOptions& options);
  ~ProcessGroupQuoit() override;

  const std::string getBackendName() const override { return "quoit"; }
  c10::intrusive_ptr<Options> getBackendOptions() override { return options_; }
  void setTimeout(std::chrono::milliseconds timeout) override;
  void setSequenceNumberForGroup() override {}  // ours are equal on all ranks by construction
  uint64_t getSequenceNumberForGroup() override { return communicator_->sequence(); }
  void abort() override;
  void shutdown() override;

  Handle broadcast(Tensors& tensors, const c10d::BroadcastOptions& opts) override;
  Handle allreduce(Tensors& tensors, const c10d::AllreduceOptions& opts) override;
  Handle allreduce_coalesced(Tensors& tensors,
                             const c10d::AllreduceCoalescedOptions& opts) override;
  Handle reduce(Tensors& tensors, const c10d::ReduceOptions& opts) override;
  Handle allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                   const c10d::AllgatherOptions& opts) override;
  Handle _allgather_base(at::Tensor& output, at::Tensor& input,
                         const c10d::AllgatherOptions& opts) override;
  Handle allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs,
                             const c10d::AllgatherOptions& opts) override;
  Handle allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                         const c10d::AllgatherOptions& opts) override;
  Handle gather(std::vector<Tensors>& outputs, Tensors& inputs,
                const c10d::GatherOptions& opts) override;
  Handle scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                 const c10d::ScatterOptions& opts) override;
  Handle reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                        const c10d::ReduceScatterOptions& opts) override;
  Handle _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                              const c10d::ReduceScatterOptions& opts) override;
  Handle reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                         const c10d::ReduceScatterOptions& opts) override;
  Handle alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_splits,
                       std::vector<int64_t>& input_splits,
                       const c10d::AllToAllOptions& opts) override;
  Handle alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& opts) override;
  Handle send(Tensors& tensors, int to, int tag) override;
  Handle recv(Tensors& tensors, int from, int tag) override;
  Handle recvAnysource(Tensors& tensors, int tag) override;
  Handle barrier(const c10d::BarrierOptions& opts) override;

 private:
  // Starts one operation on `operands` as torch's options ask.
  template <class Start>
  Communicator::Handle start(const Operands& operands, std::chrono::milliseconds timeout,
                             bool background, Start start_call);
  Handle hand_out(std::vector<Communicator::Handle> parts, c10d::OpType type, Tensors outputs);

  // Throws the reason once the group has been shut down.
  Communicator& communicator();

  const c10::intrusive_ptr<Options> options_;
  std::shared_ptr<Communicator> communicator_;
};

}  // namespace quoit
