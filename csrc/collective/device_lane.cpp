#include "collective/device_lane.h"

#include <array>
#include <utility>

namespace quoit {

DeviceLane::DeviceLane(CudaDevice& device, const cuda::KernelSet& kernels, Board& board,
                       const CudaScratch& scratch, std::vector<const CudaWindow*> windows,
                       DeviceStream& stream)
    : device_(device),
      kernels_(kernels),
      board_(board),
      stream_(stream),
      scratch_(scratch),
      windows_(std::move(windows)),
      inputs_(windows_.size()) {
  for (const CudaWindow* const window : windows_)
    bases_.push_back(window != nullptr ? window->data() : scratch_.data());
}

void DeviceLane::copy(std::span<const cuda::Copy> copies) const {
  const CudaDevice::Current here(device_);
  cuda::copy(kernels_, copies, stream_.launch());
}

void DeviceLane::copy(const std::byte* from, std::byte* to, std::size_t bytes) const {
  if (from == to || bytes == 0) return;
  const std::array<cuda::Copy, 1> one{{{from, to, bytes}}};
  copy(one);
}

void DeviceLane::reduce(DType dtype, const ReduceStep& step, std::span<const std::byte* const> in,
                        std::byte* out, std::byte* also, std::size_t count) const {
  const CudaDevice::Current here(device_);
  cuda::reduce(kernels_, dtype, step, in, out, also, count, stream_.launch());
}

DeviceLane::Step DeviceLane::publish(const Call& call) {
  const Step step = next();
  {
    const CudaDevice::Current here(device_);
    const CudaDriver& driver = device_.driver;
    driver.must(driver.calls.event_record, scratch_.mark(step.slot), stream_.handle);
  }
  board_.publish(call);
  ++steps_;
  return step;
}

void DeviceLane::follow(const Step& step) const {
  const CudaDevice::Current here(device_);
  const CudaDriver& driver = device_.driver;
  for (const CudaWindow* const window : windows_)
    if (window != nullptr)
      driver.must(driver.calls.stream_wait_event, stream_.handle, window->mark(step.slot), 0U);
}

}  // namespace quoit
