#include "collective/device_hands.h"

#include <unistd.h>

#include "collective/cuda_peers.h"

namespace quoit {
namespace {

CudaAddress address(const std::byte* data) { return reinterpret_cast<CudaAddress>(data); }

// Memory of the device. To free it may take until the device is idle.
std::shared_ptr<std::byte> allocate(const CudaDevice& device, std::size_t bytes) {
  const CudaDevice::Current here(device);
  CudaAddress memory = 0;
  device.driver.must(device.driver.calls.mem_alloc, &memory, bytes);
  return {reinterpret_cast<std::byte*>(memory), [&device](std::byte* data) {
            const CudaDevice::Current there(device);
            device.driver.calls.mem_free(address(data));
          }};
}

}  // namespace

DeviceHands::DeviceHands(Network& network, CudaDevice& device, const cuda::KernelSet* kernels,
                         std::unique_ptr<DeviceStream> stream)
    : network_(network),
      device_(device),
      kernels_(kernels),
      process_(::getpid()),
      stream_(std::move(stream)),
      workspace_(std::make_shared<Workspace>(
          [&device](std::size_t bytes) { return allocate(device, bytes); })) {
  const CudaDevice::Current here(device_);
  device_.driver.must(device_.driver.calls.event_create, &mark_, kCudaEventDisableTiming);
}

// What is still in the stream may use the memory.
DeviceHands::~DeviceHands() {
  if (::getpid() != process_) {  // a child has no part in what its parent has on a device
    static_cast<void>(stream_.release());
    static_cast<void>(new std::shared_ptr<Workspace>(std::move(workspace_)));
    return;
  }
  CudaLegacy legacy;
  legacy.streams.push_back(std::move(stream_));
  legacy.closed = [&device = device_, mark = mark_, memory = std::move(workspace_)]() mutable {
    const CudaDevice::Current here(device);
    device.driver.calls.event_destroy(mark);
    memory.reset();
  };
  legacy.unused = [] { return true; };
  retire(device_, std::move(legacy));
}

Transfer DeviceHands::send(int to, Tag tag, ConstBytes data) const {
  const CudaDevice::Current here(device_);
  return network_.send(to, tag, data);
}

Transfer DeviceHands::send(int to, ConstBytes data) const {
  const CudaDevice::Current here(device_);
  return network_.send_from_device(to, data);
}

void DeviceHands::copy(const std::byte* from, std::byte* to, std::size_t bytes) {
  if (from == to || bytes == 0) return;
  const CudaDevice::Current here(device_);
  device_.driver.must(device_.driver.calls.memcpy_async, address(to), address(from), bytes,
                      stream_->handle);
  busy_ = true;
  marked_ = false;
}

void DeviceHands::reduce(DType dtype, const ReduceStep& step, std::span<const std::byte* const> in,
                         std::byte* out, std::size_t count) {
  if (count == 0) return;
  const CudaDevice::Current here(device_);
  cuda::reduce(*kernels_, dtype, step, in, out, nullptr, count, stream_->launch());
  busy_ = true;
  marked_ = false;
}

bool DeviceHands::settled() {
  if (!busy_) return true;
  if (!marked_) {
    const CudaDevice::Current here(device_);
    device_.driver.must(device_.driver.calls.event_record, mark_, stream_->handle);
    marked_ = true;
  }
  busy_ = !device_.reached(mark_);
  return !busy_;
}

}  // namespace quoit
