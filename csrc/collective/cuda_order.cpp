#include "collective/cuda_order.h"

#include <algorithm>

namespace quoit {
namespace {

struct PooledStream final : DeviceStream {
  explicit PooledStream(CudaDevice& home) : DeviceStream(home.take_stream()), device(home) {}
  ~PooledStream() override { device.give_back(handle); }

  CudaDevice& device;
};

}  // namespace

// The arrays of a call that failed are kept until the device has come to what it had begun.
CudaOrder::~CudaOrder() {
  if (!marks_) return;
  {
    const CudaDevice::Current here(device_);
    const CudaCalls& calls = device_.driver.calls;
    for (CudaEvent const event : called_) calls.event_destroy(event);
    if (used_ != nullptr && !finished_) calls.event_record(end(), used_);
  }
  device_.give_back(std::move(marks_), joined_ ? nullptr : std::move(keep_));
}

void CudaOrder::add(CudaStream stream) {
  if (std::find(streams_.begin(), streams_.end(), stream) == streams_.end())
    streams_.push_back(stream);
}

std::unique_ptr<DeviceStream> CudaOrder::new_stream() const {
  return std::make_unique<PooledStream>(device_);
}

void CudaOrder::call() {
  const CudaDevice::Current here(device_);
  const CudaDriver& driver = device_.driver;
  for (CudaStream const stream : streams_)
    QUOIT_CHECK(!device_.is_capturing(stream), UsageError, "a call on an array of CUDA device ",
                device_.number,
                " while its stream is captured into a graph: ranks tell each other ",
                "by the host when to go on, which a graph cannot hold. Call it outside");
  marks_ = device_.take(1);
  for (const auto* const streams : {&streams_, &before_})
    for (CudaStream const stream : *streams) {
      driver.must(driver.calls.event_create, &called_.emplace_back(), kCudaEventDisableTiming);
      driver.must(driver.calls.event_record, called_.back(), stream);
    }
}

bool CudaOrder::called() {
  return std::all_of(called_.begin(), called_.end(),
                     [this](CudaEvent event) { return device_.reached(event); });
}

void CudaOrder::start(DeviceStream& stream) {
  const CudaDevice::Current here(device_);
  const CudaDriver& driver = device_.driver;
  used_ = stream.handle;
  for (CudaEvent const event : called_)
    driver.must(driver.calls.stream_wait_event, used_, event, 0U);
}

void CudaOrder::finish(DeviceStream& stream) {
  const CudaDevice::Current here(device_);
  const CudaDriver& driver = device_.driver;
  driver.must(driver.calls.event_record, end(), stream.handle);
  finished_ = true;
}

void CudaOrder::join() {
  const CudaDevice::Current here(device_);
  const CudaDriver& driver = device_.driver;
  for (CudaStream const stream : streams_)
    driver.must(driver.calls.stream_wait_event, stream, end(), 0U);
  joined_ = true;
}

}  // namespace quoit
