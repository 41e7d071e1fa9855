#pragma once
// A process group on NCCL, for the tensors of one accelerator. ProcessGroupQuoit hands it what lies
// there.
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <map>
#include <thread>

#include "collective/device_sra.h"
#include "torch/compression.h"
#include "torch/nccl_edges.h"
#include "torch/nccl_reduction.h"
#include "torch/nccl_work.h"
#include "torch/work.h"

namespace quoit {

struct NcclOptions {
  Seconds timeout{1800};
  std::vector<std::string> libraries;  // where libnccl may be: see NcclLibrary::load
  // What tells devices of the job apart; empty: quoit.nccl.device_identity() is asked at first use.
  std::string device_identity;
};

class NcclGroup final : public c10d::Backend {
 public:
  using Handle = c10::intrusive_ptr<c10d::Work>;
  using Tensors = std::vector<at::Tensor>;

  // Called by all members; no wait. NCCL is loaded at first use, unless QUOIT_NCCL=off, of which
  // the other ranks are told at once.
  NcclGroup(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, NcclOptions options);
  ~NcclGroup() override;

  // Why NCCL cannot serve tensors on this device, on any rank, or empty. The first call waits for
  // the first call of every other rank; all get the same answer. Errors are quoit's, not torch's.
  const std::string& unusable(c10::Device device);
  // The same for messages with one rank: waits for that one only.
  std::string unusable(c10::Device device, int peer);

  const std::string getBackendName() const override { return "quoit-nccl"; }
  c10::intrusive_ptr<Options> getBackendOptions() override;
  void setTimeout(std::chrono::milliseconds timeout) override { timeout_ = timeout; }
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override { return state_->called; }
  void abort() override;
  void shutdown() override;

  void startCoalescing() override;
  Handle endCoalescing() override;

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

  // Why some rank has no kernels for tensors on the group's device, or empty. All get the same
  // answer, after unusable().
  const std::string& no_kernels() const { return no_kernels_; }

  // With kernels only; see ProcessGroupQuoit. What the compression keeps lies on the tensors'
  // device; a fingerprint is left to the caller.
  Handle compressed_all_reduce(const at::Tensor& tensor, const TensorCompression& compression,
                               const TensorTerms& terms);
  Handle compressed_reduce_scatter(const at::Tensor& input, const at::Tensor& output,
                                   const TensorCompression& compression, const TensorTerms& terms);
  Handle compressed_all_gather(const at::Tensor& tensor, const TensorCompression& compression,
                               const TensorTerms& terms);

 private:
  // One call of NCCL's functions, in the stream that it shall be put into.
  struct Issue {
    const NcclCalls& nccl;
    NcclCommunicator& communicator;
    void* stream;
    std::vector<NcclOp> made_ops{};  // destroyed after the call

    [[nodiscard]] NcclComm comm() const { return communicator.handle(); }
    void check(NcclResult result, const char* what) const { communicator.check(result, what); }
    NcclOp op(const NcclReduction& reduction);
    // A send to a peer and a recv from it, of those that are there and not empty.
    void exchange(const at::Tensor& in, const at::Tensor& out, int peer) const;
    void exchange(const DeviceExchange& all, int rank) const;
  };

  // Kernels, and exchanges between them, in that stream.
  struct Steps {
    cuda::Stream stream;
    std::uint64_t sequence;  // of the call
    std::function<Task(DeviceExchange)> exchange;
  };

  // One collective, before it is issued.
  struct Plan {
    explicit Plan(c10d::OpType type) : type(type) {}

    // A contiguous tensor for NCCL instead of this one: itself if it is; else a copy, which is
    // copied back afterwards if it is written.
    at::Tensor input(const at::Tensor& tensor, const char* what);
    at::Tensor output(const at::Tensor& tensor, const char* what);
    at::Tensor in_place(const at::Tensor& tensor, const char* what);
    // Of a list, one for each of `ranks`, as bytes.
    Tensors byte_inputs(const Tensors& list, int ranks, const char* what);
    Tensors byte_outputs(const Tensors& list, int ranks, const char* what);
    // Memory of the plan's own, in bytes, where `like` is.
    at::Tensor room(const at::Tensor& like, std::int64_t bytes, bool zeroed = false);
    // Keeps its memory from being used again before the stream is done with it.
    void use(const at::Tensor& tensor) { uses.push_back(tensor); }

    c10d::OpType type;
    std::chrono::milliseconds timeout = c10d::kUnsetTimeout;
    bool async = true;
    bool grouped = false;  // several calls of NCCL, which make one
    Tensors inputs, outputs, value;
    Tensors uses;                               // memory that the stream works on
    std::vector<std::function<void()>> before;  // copies, in the stream
    std::vector<std::function<void(Issue&)>> issue;
    std::vector<std::function<void(Steps&)>> steps;  // after that
    std::vector<std::function<void()>> after;
    std::vector<std::function<void()>> copies_back;

    // All of another one, too: in one group of NCCL's calls.
    void join(Plan other);

   private:
    at::Tensor flat(const at::Tensor& tensor, bool reads, bool writes, const char* what);
  };

  // What was called since startCoalescing, by the thread that called it.
  struct Region {
    std::thread::id thread;
    std::optional<Plan> plan;
    WorkNccl::Calls messages;
    Tensors outputs;
  };

  template <class Options>
  Plan plan(c10d::OpType type, const Options& opts) const {
    Plan made(type);
    made.timeout = opts.timeout;
    made.async = opts.asyncOp;
    return made;
  }

  void add_all_reduce(Plan& plan, const at::Tensor& tensor, const c10d::ReduceOp& op) const;
  void add_all_gather(Plan& plan, const Tensors& outputs, const at::Tensor& input) const;
  void add_gather_into(Plan& plan, const at::Tensor& output, const at::Tensor& input) const;
  void add_reduce_scatter(Plan& plan, const at::Tensor& output, const Tensors& inputs,
                          const c10d::ReduceOp& op) const;
  void add_reduce_out_of(Plan& plan, const at::Tensor& output, const at::Tensor& input,
                         const c10d::ReduceOp& op) const;
  void add_all_to_all(Plan& plan, Tensors outputs, Tensors inputs) const;

  Plan compressed_plan(c10d::OpType type, const at::Tensor& tensor,
                       const TensorCompression& compression, const TensorTerms& terms) const;
  // `work` puts what it does into the stream; the number of the call makes its seed.
  static void add_steps(Plan& plan, const TensorCompression& compression,
                        std::function<Task(std::uint64_t sequence, DeviceRun& on)> work);

  // Issues it, or keeps it for the end of the region (and returns null).
  Handle run(Plan plan);
  std::shared_ptr<NcclCall> launch(Plan& plan);
  void call_nccl(Plan& plan, const c10::Stream& stream, const NcclCall& call);
  // Makes these calls of NCCL's functions, as one if they are grouped, and waits until they have
  // begun.
  void issue(Issue& on, const NcclCall& call, bool grouped, const std::function<void()>& calls);
  void await_settled(NcclCommunicator& communicator, const NcclCall& call);
  Handle message(const at::Tensor& tensor, int peer, bool sending);
  [[nodiscard]] Handle hand_out(WorkNccl::Calls calls, const Plan& plan) const;

  // Checks that this group may be used, and for tensors of this device.
  void bind(c10::Device device);
  c10::Device device_of_barrier(const c10d::BarrierOptions& opts) const;
  // Tells the other ranks of this one's device.
  void introduce();
  std::string said_of_itself() const;
  std::string hear_of(int peer);
  void make_communicator(const NcclCall& call);
  [[nodiscard]] Seconds timeout_of(std::chrono::milliseconds asked) const;

  // Runs a method's body; our errors come out as torch's, and say whose they are. What is not the
  // caller's fault breaks the group.
  template <class Body>
  auto translated(Body body) {
    const at::NoGradGuard no_grad;
    try {
      return body();
    } catch (const UsageError&) {
      std::rethrow_exception(as_torch_error(said_by(state_->where, std::current_exception())));
    } catch (const UnavailableError&) {
      std::rethrow_exception(as_torch_error(said_by(state_->where, std::current_exception())));
    } catch (const Error&) {
      try {
        state_->fail_in_call();
      } catch (const Error&) {
        std::rethrow_exception(as_torch_error(said_by(state_->where, std::current_exception())));
      }
    }
  }

  const NcclOptions options_;
  std::atomic<std::chrono::milliseconds> timeout_;
  const std::shared_ptr<NcclEdges> state_;

  std::recursive_mutex calling_;  // one call at a time; what follows is guarded by it
  std::optional<c10::Device> device_;
  const NcclLibrary* library_ = nullptr;
  const bool off_;  // QUOIT_NCCL=off
  bool introduced_ = false;
  std::optional<std::string> unusable_;  // asked of all ranks
  std::string no_kernels_;               // and this
  std::map<int, std::string> met_;       // by rank: the same of messages with it
  std::shared_ptr<NcclCommunicator> communicator_;
  std::shared_ptr<NcclCall> last_;  // of the communicator, unless it was captured
  std::optional<c10::Event> begin_;
  std::optional<Region> region_;
};

}  // namespace quoit
