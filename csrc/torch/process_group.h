#pragma once
// torch.distributed's backend "quoit": turns each call of c10d into one of Communicator.
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <mutex>
#include <optional>
#include <thread>

#include "collective/connect.h"
#include "torch/compression.h"
#include "torch/nccl_group.h"
#include "torch/tensors.h"
#include "torch/work.h"

namespace quoit {

class ProcessGroupQuoit final : public c10d::Backend {
 public:
  using Handle = c10::intrusive_ptr<c10d::Work>;
  using Tensors = std::vector<at::Tensor>;

  // Collective over the members, who meet through `store`; they are ranks of the job, all when
  // empty. Without `nccl`, tensors of an accelerator go by way of the host, as they do where NCCL
  // cannot serve them.
  ProcessGroupQuoit(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                    const std::vector<std::int64_t>& members, const ConnectOptions& options,
                    const std::optional<NcclOptions>& nccl);
  ~ProcessGroupQuoit() override;

  const std::string getBackendName() const override { return "quoit"; }
  c10::intrusive_ptr<Options> getBackendOptions() override;
  void setTimeout(std::chrono::milliseconds timeout) override;
  void setSequenceNumberForGroup() override {}  // ours are equal on all ranks by construction
  uint64_t getSequenceNumberForGroup() override;
  void abort() override;
  void shutdown() override;

  // Other groups made out of this one. torch 2.9 does not have them all: hence no `override`.
  bool supportsSplitting() const { return true; }
  c10::intrusive_ptr<Backend> split(const c10::intrusive_ptr<c10d::Store>& store,
                                    const std::vector<int>& ranks,
                                    const c10::intrusive_ptr<Options>& opts);
  c10::intrusive_ptr<Backend> merge(const c10::intrusive_ptr<c10d::Store>& store,
                                    const c10::intrusive_ptr<Options>& opts, const int& rank,
                                    const int& size);
  bool supportsShrinking() const { return true; }
  c10::intrusive_ptr<Backend> shrink(const std::vector<int64_t>& ranks_to_exclude, int shrink_flags,
                                     const c10::intrusive_ptr<Options>& opts_override);

  // Memory that the other ranks of this host read in place: DDP's buckets and FSDP2's buffers.
  bool supportsTensorAlloc(c10::DeviceIndex device) override;
  at::Tensor allocateTensor(long size, at::TensorOptions options) override;

  // Regions belong to the thread that starts them. supportsCoalescing stays false: it would only
  // make batch_isend_irecv hand out one Work instead of one for each message.
  void startCoalescing() override;
  Handle endCoalescing() override;

  Handle broadcast(Tensors& tensors, const c10d::BroadcastOptions& opts) override;
  Handle allreduce(Tensors& tensors, const c10d::AllreduceOptions& opts) override;
  Handle allreduce_sparse(Tensors& tensors, const c10d::AllreduceOptions& opts) override;
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
  void monitoredBarrier(const c10d::BarrierOptions& opts, bool wait_all_ranks) override;

  // As documented at Communicator. All work in place; the input of reduce_scatter is used up.
  Handle compressed_allreduce(const at::Tensor& tensor, const TensorCompression& compression,
                              const TensorTerms& terms);
  Handle compressed_reduce_scatter(const at::Tensor& input, const at::Tensor& output,
                                   const TensorCompression& compression, const TensorTerms& terms);
  Handle compressed_allgather(const at::Tensor& tensor, const TensorCompression& compression,
                              const TensorTerms& terms);
  // Why tensors of this device are compressed on the host, where residuals then must be; empty: on
  // the device. Collective when a device is first asked about, or used; the same on all ranks.
  std::string compressed_on_host(c10::Device device);

  // As Communicator has it, where NCCL does not serve.
  std::string device_route();

 private:
  // What was called since startCoalescing.
  struct Coalescing {
    std::thread::id thread;
    std::vector<Communicator::Handle> parts;
    Tensors outputs;
    bool of_nccl;  // whether NCCL has been told of it
  };

  // What all forms of these two that work on one tensor for all ranks are made of.
  Communicator::Handle gather_into(const at::Tensor& output, const at::Tensor& input,
                                   const c10d::AllgatherOptions& opts);
  Communicator::Handle reduce_out_of(const at::Tensor& input, const at::Tensor& output,
                                     const c10d::ReduceScatterOptions& opts);

  // Starts one operation on `operands` as torch's options ask.
  template <class Start>
  Communicator::Handle start(const Operands& operands, std::chrono::milliseconds timeout,
                             bool background, Start start_call);
  template <class Start>
  Communicator::Handle start(const Operands& operands, std::chrono::milliseconds timeout,
                             Engine::Mode mode, Start start_call);
  // `inputs` is what a profiler is told of. Null, as torch allows for calls that are not
  // asynchronous, when all is over already.
  Handle hand_out(Communicator::Handle work, c10d::OpType type, const at::Tensor& output,
                  const at::Tensor& input);
  Handle hand_out(Communicator::Handle work, c10d::OpType type, const Tensors& outputs,
                  const Tensors& inputs);
  Handle hand_out(std::vector<Communicator::Handle> parts, c10d::OpType type, Tensors outputs,
                  const Tensors& inputs);

  // NCCL for what lies on this device, or null: on the CPU, and where it cannot be used. Collective
  // when it is first asked: over the group, or, for a message, over this rank and `peer`.
  NcclGroup* nccl_for(c10::Device device, int peer = kAnySource);
  NcclGroup* nccl_for(at::TensorList tensors, int peer = kAnySource) {
    return tensors.empty() ? nullptr : nccl_for(tensors.front().device(), peer);
  }
  // For a reduction, too, that NCCL has.
  NcclGroup* nccl_for(at::TensorList tensors, const c10d::ReduceOp& op);

  // How a compressed tensor goes: by NCCL, or by the communicator's way between devices, or by that
  // through the host.
  struct CompressedWay {
    NcclGroup* nccl = nullptr;
    bool on_host = false;
  };
  CompressedWay compressing(c10::Device device, const TensorCompression& by);
  std::string ipc_obstacle(c10::Device device);
  void compare_replicas_of(const at::Tensor& tensor, std::uint64_t fingerprint, const Handle& work);

  // Whether somebody wants to see a Work even of a call that is over.
  [[nodiscard]] bool observed() const;

  // Throws the reason once the group has been shut down.
  Communicator& communicator();

  c10::intrusive_ptr<Backend> related(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                      int size, const std::vector<std::int64_t>& members,
                                      const c10::intrusive_ptr<Options>& opts);

  // Runs a method's body; our errors come out as torch's, and say whose they are.
  template <class Body>
  auto translated(Body body) {
    try {
      return body();
    } catch (const Error&) {
      std::rethrow_exception(as_torch_error(said_by(where_, std::current_exception())));
    }
  }

  // The two sides of a monitored barrier: rank 0, and the others.
  void monitor(std::uint64_t number, std::chrono::milliseconds timeout, bool wait_all_ranks);
  void report(std::uint64_t number, std::chrono::milliseconds timeout);

  const c10::intrusive_ptr<c10d::Store> store_;
  const std::vector<std::int64_t> members_;  // in the job; empty: all
  const std::string where_;                  // "rank 3 on node7", for messages
  const ConnectOptions connect_options_;
  const std::optional<NcclOptions> nccl_options_;
  c10::intrusive_ptr<NcclGroup> nccl_;  // null without the options
  std::atomic<bool> told_why_not_{false};
  std::atomic<bool> told_why_compressed_there_{false};
  std::atomic<std::chrono::milliseconds> timeout_;
  std::shared_ptr<Communicator> communicator_;
  int shrunk_ = 0;                           // how often
  std::atomic<std::uint64_t> monitored_{0};  // monitored barriers
  std::mutex mutex_;
  std::optional<Coalescing> coalescing_;  // guarded by mutex_
  std::atomic<bool> in_region_{false};    // whether there is one
};

inline const at::Tensor& only(const std::vector<at::Tensor>& tensors, const char* what) {
  QUOIT_CHECK(tensors.size() == 1, UsageError, what, ": got ", tensors.size(),
              " tensors; pass a list of one: this backend has one device per process");
  return tensors.front();
}

template <class Start>
Communicator::Handle ProcessGroupQuoit::start(const Operands& operands,
                                              std::chrono::milliseconds timeout, bool background,
                                              Start start_call) {
  const Engine::Mode mode = background   ? Engine::Mode::Background
                            : observed() ? Engine::Mode::Foreground
                                         : Engine::Mode::Now;
  return start(operands, timeout, mode, start_call);
}

template <class Start>
Communicator::Handle ProcessGroupQuoit::start(const Operands& operands,
                                              std::chrono::milliseconds timeout, Engine::Mode mode,
                                              Start start_call) {
  CallOptions options;
  if (timeout > kNoTimeout) options.timeout = timeout;
  options.mode = mode;
  options.epilogue = operands.epilogue();
  options.staging = operands.staging();
  options.device = operands.order();
  if (mode != Engine::Mode::Now) {
    options.keep = operands.keep();
    return start_call(communicator(), std::move(options));
  }
  auto work = start_call(communicator(), std::move(options));
  if (work) work->hold(operands.keep());
  return work;
}

}  // namespace quoit
