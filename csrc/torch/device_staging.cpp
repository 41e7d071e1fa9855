#include "torch/device_staging.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "torch/device_streams.h"

namespace quoit {
namespace {

using Guard = c10::impl::VirtualGuardImpl;

constexpr std::size_t kSlots = 3;  // one is filled, one is on the wire, one is carried back
constexpr std::size_t kLine = 64;

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

at::Tensor bytes_at(std::byte* data, std::size_t count, c10::Device device) {
  return at::for_blob(data, {static_cast<std::int64_t>(count)})
      .options(at::TensorOptions(at::kByte).device(device))
      .target_device(device)
      .make_tensor();
}

}  // namespace

DeviceStaging::DeviceStaging(c10::Device device)
    : device_(device), in_(copy_streams(device).first), out_(copy_streams(device).second) {}

void DeviceStaging::begin(std::size_t pieces, const Touched& touched) {
  const Guard guard(device_.type());
  const c10::Stream current = guard.getStream(device_);
  QUOIT_CHECK(!is_capturing(current), UsageError, "a call on a tensor of ", device_.str(),
              " while its stream is captured into a graph: it goes by way of the ",
              "host, which a graph cannot hold. Call it outside, or use NCCL (QUOIT_NCCL)");
  pieces_ = pieces;
  for (const View& view : touched.read) place(view, true, false);
  for (const View& view : touched.written) place(view, false, true);
  for (std::size_t slot = 0; slot < std::min(pieces, kSlots); ++slot)
    slots_.push_back({c10::Event(device_.type()), c10::Event(device_.type())});
  const at::NoGradGuard no_grad;
  host_ = at::empty({static_cast<std::int64_t>(slot_bytes_ * slots_.size())},
                    at::TensorOptions(at::kByte).pinned_memory(true));
  for (const at::Tensor& tensor : tensors_) {
    guard.recordDataPtrOnStream(tensor.storage().data_ptr(), in_);
    guard.recordDataPtrOnStream(tensor.storage().data_ptr(), out_);
  }
  c10::Event called(device_.type());
  called.record(current);
  called.block(in_);
  called.block(out_);
  for (std::size_t i = 0; i < slots_.size(); ++i) bring(i);
}

void DeviceStaging::place(const View& view, bool read, bool written) {
  if (view.count == 0) return;
  for (Place& known : places_) {
    if (known.view.data != view.data || known.view.count != view.count) continue;
    known.read |= read;
    known.written |= written;
    return;
  }
  places_.push_back({view, read, written, slot_bytes_});
  const std::size_t longest = ceil_div(view.count, pieces_) * size_of(view.dtype);
  slot_bytes_ += ceil_div(longest, kLine) * kLine;
}

View DeviceStaging::at(std::size_t i, const View& view) const {
  if (view.count == 0) return view;
  const auto place = std::find_if(places_.begin(), places_.end(), [&](const Place& known) {
    return known.view.data == view.data && known.view.count == view.count;
  });
  TORCH_INTERNAL_ASSERT(place != places_.end(), "not what the call said it touches");
  const Slice piece = Slice{0, view.count}.piece(pieces_, i);
  return {static_cast<std::byte*>(host_.data_ptr()) + offset_of(i, *place), piece.count,
          view.dtype};
}

void DeviceStaging::copy(std::size_t i, const Place& place, bool to_host) const {
  const View there = place.view.at(Slice{0, place.view.count}.piece(pieces_, i));
  if (there.count == 0) return;
  const auto offset = static_cast<std::int64_t>(offset_of(i, place));
  const at::Tensor here = host_.narrow(0, offset, static_cast<std::int64_t>(there.bytes()));
  const at::Tensor theirs = bytes_at(there.data, there.bytes(), device_);
  if (to_host)
    here.copy_(theirs, /*non_blocking=*/true);
  else
    theirs.copy_(here, /*non_blocking=*/true);
}

// Into a slot from which the piece before has been carried back.
void DeviceStaging::bring(std::size_t i) {
  const at::NoGradGuard no_grad;
  const c10::StreamGuard on(in_);
  Slot& slot = slots_[i % slots_.size()];
  if (i >= slots_.size()) slot.carried.block(in_);
  for (const Place& place : places_)
    if (place.read) copy(i, place, /*to_host=*/true);
  slot.arrived.record(in_);
}

bool DeviceStaging::arrived(std::size_t i) { return slots_[i % slots_.size()].arrived.query(); }

void DeviceStaging::carry_back(std::size_t i) {
  const at::NoGradGuard no_grad;
  {
    const c10::StreamGuard on(out_);
    for (const Place& place : places_)
      if (place.written) copy(i, place, /*to_host=*/false);
    if (i + 1 == pieces_)
      for (const auto& [to, from] : copies_back_) to.copy_(from, /*non_blocking=*/true);
    slots_[i % slots_.size()].carried.record(out_);
  }
  if (i + slots_.size() < pieces_) bring(i + slots_.size());
}

// The last piece was carried back behind all others.
void DeviceStaging::join() {
  const Guard guard(device_.type());
  slots_[(pieces_ - 1) % slots_.size()].carried.block(guard.getStream(device_));
}

}  // namespace quoit
