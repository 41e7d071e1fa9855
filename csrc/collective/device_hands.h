#pragma once
// The stream, the kernels and the memory by which a group works on one device with messages that go
// from and to its memory.
#include <memory>

#include "collective/cuda_device.h"
#include "collective/device_order.h"
#include "collective/ring.h"
#include "kernels/cuda.h"

namespace quoit {

// All of it under the engine's lock, but for what is const.
class DeviceHands {
 public:
  // Without `kernels` it cannot reduce. All outlive it.
  DeviceHands(Network& network, CudaDevice& device, const cuda::KernelSet* kernels,
              std::unique_ptr<DeviceStream> stream);
  ~DeviceHands();
  DeviceHands(const DeviceHands&) = delete;
  DeviceHands& operator=(const DeviceHands&) = delete;

  [[nodiscard]] Network& network() const { return network_; }
  [[nodiscard]] CudaDevice& device() const { return device_; }
  [[nodiscard]] DeviceStream& stream() const { return *stream_; }
  [[nodiscard]] const std::shared_ptr<Workspace>& workspace() const { return workspace_; }

  // What the library that carries the message does, it does with the device's context.
  [[nodiscard]] Transfer send(int to, Tag tag, ConstBytes data) const;
  [[nodiscard]] Transfer send(int to, ConstBytes data) const;

  // These put something into the stream, and throw what CUDA fails with.
  void copy(const std::byte* from, std::byte* to, std::size_t bytes);
  void reduce(DType dtype, const ReduceStep& step, std::span<const std::byte* const> in,
              std::byte* out, std::size_t count);

  // Whether the device has come to all that was put in; throws what it failed with.
  [[nodiscard]] bool settled();

 private:
  Network& network_;
  CudaDevice& device_;
  const cuda::KernelSet* const kernels_;
  const int process_;
  std::unique_ptr<DeviceStream> stream_;
  std::shared_ptr<Workspace> workspace_;
  CudaEvent mark_ = nullptr;  // of the stream
  bool busy_ = false;         // since something was put in
  bool marked_ = false;       // behind all of it
};

}  // namespace quoit
