#include "torch/process_group.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <algorithm>

#include "core/host.h"
#include "core/log.h"
#include "torch/arena_allocator.h"
#include "torch/meeting.h"

namespace quoit {
namespace {

constexpr int kShrinkAbort = 1;  // torch.distributed.SHRINK_ABORT

std::chrono::milliseconds in_milliseconds(Seconds seconds) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(seconds);
}

}  // namespace

ProcessGroupQuoit::ProcessGroupQuoit(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                     int size, const std::vector<std::int64_t>& members,
                                     const ConnectOptions& options,
                                     const std::optional<NcclOptions>& nccl)
    : Backend(rank, size),
      store_(store),
      members_(members),
      where_(text("rank ", rank, " on ", host_name())),
      connect_options_(options),
      nccl_options_(nccl),
      timeout_(in_milliseconds(options.timeout)) {
  translated([&] {
    communicator_ = connect(Engine::process(), rank, size,
                            through_store(store, rank, size, members, options.timeout), options);
    if (!nccl) return;
    NcclOptions mine = *nccl;
    mine.timeout = options.timeout;
    nccl_ = c10::make_intrusive<NcclGroup>(store, rank, size, std::move(mine));
  });
  init();
}

ProcessGroupQuoit::~ProcessGroupQuoit() = default;

// Worth it only where somebody shares memory with this rank.
bool ProcessGroupQuoit::supportsTensorAlloc(c10::DeviceIndex device) {
  const bool of_cpu = device < 0;
  return of_cpu && communicator_ != nullptr && communicator_->shape().ranks_per_host > 1;
}

at::Tensor ProcessGroupQuoit::allocateTensor(long size, at::TensorOptions options) {
  return translated([&] {
    QUOIT_CHECK(options.device().is_cpu(), UsageError, "allocate_tensor: asked for memory on ",
                options.device().str(), "; quoit has that of the CPU");
    communicator();
    return tensor_in_arena(size, options);
  });
}

Communicator& ProcessGroupQuoit::communicator() {
  QUOIT_CHECK(communicator_ != nullptr, TransportError,
              "this process group was shut down: call init_process_group again");
  return *communicator_;
}

std::string ProcessGroupQuoit::device_route() {
  return translated([&] { return std::string(communicator().device_route()); });
}

// A copy each time: whoever splits a group writes the new group's name and timeout into it.
c10::intrusive_ptr<c10d::Backend::Options> ProcessGroupQuoit::getBackendOptions() {
  return c10::make_intrusive<Options>("quoit", timeout_.load());
}

void ProcessGroupQuoit::setTimeout(std::chrono::milliseconds timeout) {
  translated([&] {
    communicator().set_timeout(timeout);
    if (nccl_) nccl_->setTimeout(timeout);
    timeout_ = timeout;
  });
}

uint64_t ProcessGroupQuoit::getSequenceNumberForGroup() {
  return translated([&] { return communicator().sequence(); });
}

void ProcessGroupQuoit::abort() {
  if (nccl_) nccl_->abort();
  if (communicator_) communicator_->abort("the process group was aborted");
}

// Works that are still held keep the communicator: it goes with the last of them.
void ProcessGroupQuoit::shutdown() {
  if (nccl_) nccl_->shutdown();
  if (communicator_) communicator_->shut_down();
  communicator_.reset();
}

// Only the members meet; the others are told that they have no part in it.
c10::intrusive_ptr<c10d::Backend> ProcessGroupQuoit::split(
    const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks,
    const c10::intrusive_ptr<Options>& opts) {
  const auto me = std::find(ranks.begin(), ranks.end(), rank_);
  if (me == ranks.end()) return nullptr;
  std::vector<std::int64_t> members;
  for (const int rank : ranks)
    members.push_back(members_.empty() ? rank : members_.at(static_cast<std::size_t>(rank)));
  return related(store, static_cast<int>(me - ranks.begin()), static_cast<int>(ranks.size()),
                 members, opts);
}

c10::intrusive_ptr<c10d::Backend> ProcessGroupQuoit::merge(
    const c10::intrusive_ptr<c10d::Store>& store, const c10::intrusive_ptr<Options>& opts,
    const int& rank, const int& size) {
  return related(store, rank, size, {}, opts);
}

// Needs nothing of the ranks that are left out, which may be dead.
c10::intrusive_ptr<c10d::Backend> ProcessGroupQuoit::shrink(
    const std::vector<int64_t>& ranks_to_exclude, int shrink_flags,
    const c10::intrusive_ptr<Options>& opts_override) {
  if ((shrink_flags & kShrinkAbort) != 0) abort();
  std::vector<int> left;
  std::string name = text("quoit/shrunk ", ++shrunk_, " to");
  for (int rank = 0; rank < size_; ++rank) {
    const auto& out = ranks_to_exclude;
    if (std::find(out.begin(), out.end(), rank) != out.end()) continue;
    left.push_back(rank);
    name += text(" ", rank);
  }
  auto smaller =
      split(c10::make_intrusive<c10d::PrefixStore>(name + "/", store_), left, opts_override);
  translated([&] {
    QUOIT_CHECK(smaller, UsageError, "shrink: rank ", rank_,
                " is one of those to be left out, which must not call it");
  });
  return smaller;
}

// A group of other ranks, made as this one was.
c10::intrusive_ptr<c10d::Backend> ProcessGroupQuoit::related(
    const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
    const std::vector<std::int64_t>& members, const c10::intrusive_ptr<Options>& opts) {
  return translated([&]() -> c10::intrusive_ptr<c10d::Backend> {
    ConnectOptions options = connect_options_;
    options.timeout = opts ? opts->timeout : timeout_.load();
    return c10::make_intrusive<ProcessGroupQuoit>(store, rank, size, members, options,
                                                  nccl_options_);
  });
}

// Our operations are queued when they are called, so there is nothing to gain by holding them back:
// a region only collects them, for the one Work that its end hands out.
void ProcessGroupQuoit::startCoalescing() {
  const std::lock_guard lock(mutex_);
  coalescing_ = Coalescing{std::this_thread::get_id(), {}, {}, false};
  in_region_ = true;
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::endCoalescing() {
  return translated([&] {
    std::optional<Coalescing> region;
    {
      const std::lock_guard lock(mutex_);
      region.swap(coalescing_);
      in_region_ = false;
    }
    QUOIT_CHECK(region, UsageError, "endCoalescing without startCoalescing");
    communicator();
    if (region->of_nccl) {
      auto work = nccl_->endCoalescing();
      QUOIT_CHECK(region->parts.empty(), UsageError,
                  "one coalescing region has tensors of an accelerator, which NCCL serves, and of ",
                  "the CPU: make a region for each");
      return work;
    }
    return Handle(c10::make_intrusive<WorkQuoit>(communicator_, std::move(region->parts),
                                                 c10d::OpType::COALESCED,
                                                 std::move(region->outputs), Tensors{}));
  });
}

NcclGroup* ProcessGroupQuoit::nccl_for(at::TensorList tensors, const c10d::ReduceOp& op) {
  if (!nccl_) return nullptr;
  for (const at::Tensor& tensor : tensors)
    if (tensor.device().is_cpu() || !nccl_lacks(op, tensor).empty()) return nullptr;
  return nccl_for(tensors);
}

NcclGroup* ProcessGroupQuoit::nccl_for(c10::Device device, int peer) {
  if (!nccl_ || device.is_cpu() || device.is_meta()) return nullptr;
  const std::string unusable =
      peer == kAnySource ? nccl_->unusable(device) : nccl_->unusable(device, peer);
  if (!unusable.empty()) {
    if (!told_why_not_.exchange(true) && log::debug())
      log::write(text("[quoit ", where_, "] tensors on ", device.str(),
                      " go by way of the host: ", unusable));
    return nullptr;
  }
  if (in_region_) {
    const std::lock_guard lock(mutex_);
    if (coalescing_ && coalescing_->thread == std::this_thread::get_id() &&
        !std::exchange(coalescing_->of_nccl, true))
      nccl_->startCoalescing();
  }
  return nccl_.get();
}

bool ProcessGroupQuoit::observed() const {
  return in_region_ || WorkQuoit::profiled() || c10d::allow_inflight_collective_as_graph_input();
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::hand_out(Communicator::Handle work, c10d::OpType type,
                                                      const at::Tensor& output,
                                                      const at::Tensor& input) {
  if (!work) return nullptr;
  return hand_out(std::move(work), type, Tensors{output}, Tensors{input});
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::hand_out(Communicator::Handle work, c10d::OpType type,
                                                      const Tensors& outputs,
                                                      const Tensors& inputs) {
  if (!work) return nullptr;
  return hand_out(std::vector{std::move(work)}, type, outputs, inputs);
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::hand_out(std::vector<Communicator::Handle> parts,
                                                      c10d::OpType type, Tensors outputs,
                                                      const Tensors& inputs) {
  if (std::erase(parts, nullptr) > 0 && parts.empty()) return nullptr;
  if (in_region_) {
    const std::lock_guard lock(mutex_);
    if (coalescing_ && coalescing_->thread == std::this_thread::get_id()) {
      coalescing_->parts.insert(coalescing_->parts.end(), parts.begin(), parts.end());
      coalescing_->outputs.insert(coalescing_->outputs.end(), outputs.begin(), outputs.end());
    }
  }
  return c10::make_intrusive<WorkQuoit>(communicator_, std::move(parts), type, std::move(outputs),
                                        inputs);
}

}  // namespace quoit
