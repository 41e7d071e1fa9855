#include "torch/device_staging.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <map>
#include <mutex>

#include "torch/device_streams.h"

namespace quoit {
namespace {

using Guard = c10::impl::VirtualGuardImpl;

// Of each device two, for good: copies in either direction go on side by side, and beside
// everything else.
std::pair<c10::Stream, c10::Stream> copy_streams(c10::Device device) {
  static std::mutex mutex;
  static auto& streams = *new std::map<c10::DeviceIndex, std::pair<c10::Stream, c10::Stream>>;
  const std::lock_guard lock(mutex);
  auto found = streams.find(device.index());
  if (found == streams.end()) {
    const Guard guard(device.type());
    found = streams
                .emplace(device.index(), std::pair(guard.getStreamFromGlobalPool(device, true),
                                                   guard.getStreamFromGlobalPool(device, true)))
                .first;
  }
  return found->second;
}

}  // namespace

DeviceStaging::DeviceStaging(c10::Device device)
    : device_(device), in_(copy_streams(device).first), out_(copy_streams(device).second) {}

std::byte* DeviceStaging::open(std::size_t slots, std::size_t slot_bytes) {
  const Guard guard(device_.type());
  const c10::Stream current = guard.getStream(device_);
  QUOIT_CHECK(!is_capturing(current), UsageError, "a call on a tensor of ", device_.str(),
              " while its stream is captured into a graph: it goes by way of the ",
              "host, which a graph cannot hold. Call it outside, or use NCCL (QUOIT_NCCL)");
  for (std::size_t slot = 0; slot < slots; ++slot)
    slots_.push_back({c10::Event(device_.type()), c10::Event(device_.type())});
  const at::NoGradGuard no_grad;
  host_ = at::empty({static_cast<std::int64_t>(slot_bytes * slots)},
                    at::TensorOptions(at::kByte).pinned_memory(true));
  for (const at::Tensor& tensor : tensors_) {
    guard.recordDataPtrOnStream(tensor.storage().data_ptr(), in_);
    guard.recordDataPtrOnStream(tensor.storage().data_ptr(), out_);
  }
  c10::Event called(device_.type());
  called.record(current);
  called.block(in_);
  return static_cast<std::byte*>(host_.data_ptr());
}

at::Tensor DeviceStaging::on_host(const Copy& copy) const {
  return host_.narrow(0, copy.host - static_cast<std::byte*>(host_.data_ptr()),
                      static_cast<std::int64_t>(copy.bytes));
}

at::Tensor DeviceStaging::on_device(const Copy& copy) const {
  return at::for_blob(copy.device, {static_cast<std::int64_t>(copy.bytes)})
      .options(at::TensorOptions(at::kByte).device(device_))
      .target_device(device_)
      .make_tensor();
}

void DeviceStaging::bring(std::size_t slot, const std::vector<Copy>& copies) {
  const at::NoGradGuard no_grad;
  const c10::StreamGuard on(in_);
  slots_[slot].carried.block(in_);
  for (const Copy& copy : copies) on_host(copy).copy_(on_device(copy), /*non_blocking=*/true);
  slots_[slot].arrived.record(in_);
}

void DeviceStaging::carry(std::size_t slot, const std::vector<Copy>& copies, bool last) {
  const at::NoGradGuard no_grad;
  const c10::StreamGuard on(out_);
  for (const Copy& copy : copies) on_device(copy).copy_(on_host(copy), /*non_blocking=*/true);
  if (last)
    for (const auto& [to, from] : copies_back_) to.copy_(from, /*non_blocking=*/true);
  slots_[slot].carried.record(out_);
}

void DeviceStaging::follow(std::size_t slot) {
  const Guard guard(device_.type());
  slots_[slot].carried.block(guard.getStream(device_));
}

}  // namespace quoit
