#pragma once
// How a call on the memory of a device comes between what its caller has put into streams before
// and what it puts there afterwards. What streams and arrays are, a class derived from this knows.
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "collective/on_device.h"
#include "kernels/cuda.h"
#include "transport/cuda_abi.h"

namespace quoit {

// A stream of the runtime's own. Made by an order, and used with orders of the same kind only.
struct DeviceStream {
  explicit DeviceStream(CudaStream native) : handle(native) {}
  virtual ~DeviceStream() = default;
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;

  // Puts kernels of ours into it, while the device is the current one.
  [[nodiscard]] cuda::Launch launch() const { return {reinterpret_cast<cuda::Stream>(handle)}; }

  const CudaStream handle;
};

// Memory of the device, at a multiple of 256, for as long as the work of a call lasts; zeroed by
// something that comes before it, or not.
using DeviceRoom = std::function<std::byte*(std::size_t bytes, bool zeroed)>;

class DeviceOrder {
 public:
  virtual ~DeviceOrder() = default;

  // The device's number, as CUDA's driver counts.
  [[nodiscard]] virtual int device() const = 0;

  // Why the device is none of CUDA's, or nothing. May allocate there.
  [[nodiscard]] virtual std::string foreign() const = 0;

  // One of high priority, for good.
  [[nodiscard]] virtual std::unique_ptr<DeviceStream> new_stream() const = 0;

  // Once, from the caller's thread: what its streams hold now comes before the call. Throws
  // UsageError where they are being captured into a graph.
  virtual void call() = 0;

  // Whether the device has come to that. Throws what it failed with.
  virtual bool called() = 0;

  // Once, from any thread: what is put into `stream` from now on comes after that.
  virtual void start(DeviceStream& stream) = 0;

  // Once, from any thread: the call is what `stream` holds now.
  virtual void finish(DeviceStream& stream) = 0;

  // Whether the device has come to that, where somebody must wait for it: who uses the results is
  // on a stream that nobody has told of. Throws what the device failed with.
  [[nodiscard]] virtual bool finished_on_host() const = 0;
  virtual bool finished() = 0;

  // After finish(): what the calling thread gives the device to do from now on comes after it.
  virtual void join() = 0;
};

// Waits until the device has come to a call.
class Called final : public OnDevice {
 public:
  Called(DeviceOrder& order, std::shared_ptr<int> count)
      : OnDevice(std::move(count)), order_(order) {}

  [[nodiscard]] std::string awaited() const override {
    return "this rank's accelerator, which has not come to this call";
  }

 private:
  bool come() override { return order_.called(); }

  DeviceOrder& order_;
};

// Waits until the device has come to the end of a call.
class Finished final : public OnDevice {
 public:
  Finished(DeviceOrder& order, std::shared_ptr<int> count)
      : OnDevice(std::move(count)), order_(order) {}

  [[nodiscard]] std::string awaited() const override {
    return "this rank's accelerator, which has not come to the end of this call";
  }

 private:
  bool come() override { return order_.finished(); }

  DeviceOrder& order_;
};

}  // namespace quoit
