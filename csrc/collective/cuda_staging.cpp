#include "collective/cuda_staging.h"

#include <algorithm>

namespace quoit {
namespace {

CudaAddress address(std::byte* data) { return reinterpret_cast<CudaAddress>(data); }

}  // namespace

CudaStaging::~CudaStaging() {
  if (slots_) device_.give_back(std::move(slots_), joined_ ? nullptr : std::move(keep_));
}

void CudaStaging::add(CudaStream stream) {
  if (std::find(streams_.begin(), streams_.end(), stream) == streams_.end())
    streams_.push_back(stream);
}

std::byte* CudaStaging::open(std::size_t slots, std::size_t slot_bytes) {
  const CudaDevice::Current here(device_);
  const CudaDriver& driver = device_.driver;
  for (CudaStream const stream : streams_)
    QUOIT_CHECK(!device_.is_capturing(stream), UsageError, "a call on an array of CUDA device ",
                device_.number, " while its stream is captured into a graph: it goes by way of ",
                "the host, which a graph cannot hold. Call it outside");
  slots_ = device_.take(slots * slot_bytes);
  for (CudaStream const stream : streams_) {
    driver.must(driver.calls.event_record, slots_->called, stream);
    driver.must(driver.calls.stream_wait_event, device_.in(), slots_->called, 0U);
  }
  return slots_->memory;
}

void CudaStaging::bring(std::size_t slot, const std::vector<Copy>& copies) {
  const CudaDevice::Current here(device_);
  const CudaDriver& driver = device_.driver;
  driver.must(driver.calls.stream_wait_event, device_.in(), slots_->carried[slot], 0U);
  for (const Copy& copy : copies)
    driver.must(driver.calls.memcpy_async, address(copy.host), address(copy.device), copy.bytes,
                device_.in());
  driver.must(driver.calls.event_record, slots_->arrived[slot], device_.in());
}

void CudaStaging::carry(std::size_t slot, const std::vector<Copy>& copies, bool /*last*/) {
  const CudaDevice::Current here(device_);
  const CudaDriver& driver = device_.driver;
  for (const Copy& copy : copies)
    driver.must(driver.calls.memcpy_async, address(copy.device), address(copy.host), copy.bytes,
                device_.out());
  driver.must(driver.calls.event_record, slots_->carried[slot], device_.out());
}

void CudaStaging::follow(std::size_t slot) {
  const CudaDevice::Current here(device_);
  const CudaDriver& driver = device_.driver;
  for (CudaStream const stream : streams_)
    driver.must(driver.calls.stream_wait_event, stream, slots_->carried[slot], 0U);
  joined_ = true;
}

}  // namespace quoit
