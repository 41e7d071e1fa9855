#include "collective/cuda_device.h"

#include <algorithm>
#include <bit>
#include <map>

#include "core/copy.h"

namespace quoit {
namespace {

constexpr std::size_t kSmallest = std::size_t{64} << 10;
constexpr std::size_t kSpare = std::size_t{128} << 20;  // bytes that a device keeps for later

CudaEvent new_event(const CudaDriver& driver) {
  CudaEvent event = nullptr;
  driver.must(driver.calls.event_create, &event, kCudaEventDisableTiming);
  return event;
}

CudaStream new_stream(const CudaDriver& driver) {
  CudaStream stream = nullptr;
  driver.must(driver.calls.stream_create, &stream, kCudaStreamNonBlocking);
  return stream;
}

}  // namespace

CudaDevice& CudaDevice::numbered(int number) {
  // Never destroyed: works that use them may outlive all static objects.
  static std::mutex mutex;
  static auto& devices = *new std::map<int, std::unique_ptr<CudaDevice>>;
  const CudaDriver& driver = CudaDriver::load();
  const std::lock_guard lock(mutex);
  std::unique_ptr<CudaDevice>& device = devices[number];
  if (!device) device = std::make_unique<CudaDevice>(driver, number);
  return *device;
}

CudaDevice& CudaDevice::holding(CudaAddress address) {
  const CudaDriver& driver = CudaDriver::load();
  int number = -1;
  const CudaResult result =
      driver.calls.pointer_get_attribute(&number, kCudaPointerDeviceOrdinal, address);
  QUOIT_CHECK(result == CudaResult::Success && number >= 0, UsageError,
              "the array's memory is that of no CUDA device (", driver.words(result),
              "): pass one that was not freed");
  return numbered(number);
}

CudaDevice& CudaDevice::current() {
  int number = 0;
  if (CudaDriver::load().calls.ctx_get_device(&number) != CudaResult::Success) number = 0;
  return numbered(number);
}

CudaDevice::CudaDevice(const CudaDriver& library, int ordinal) : driver(library), number(ordinal) {
  int device = 0;
  driver.must(driver.calls.device_get, &device, number);
  driver.must(driver.calls.device_primary_ctx_retain, &context_, device);
  const Current here(*this);
  in_ = new_stream(driver);
  out_ = new_stream(driver);
}

CudaDevice::Current::Current(const CudaDevice& device)
    : calls_(device.driver.calls),
      pushed_(calls_.ctx_push_current(device.context_) == CudaResult::Success) {
  calls_.thread_exchange_stream_capture_mode(&mode_);
}

CudaDevice::Current::~Current() {
  calls_.thread_exchange_stream_capture_mode(&mode_);
  CudaContext ours = nullptr;
  if (pushed_) calls_.ctx_pop_current(&ours);
}

void CudaDevice::Slots::allocate() {
  const CudaDriver& driver = device.driver;
  called = new_event(driver);
  for (auto* const events : {&arrived, &carried})
    for (CudaEvent& event : *events) event = new_event(driver);
  void* data = nullptr;
  driver.must(driver.calls.mem_host_alloc, &data, bytes, kCudaMemHostAllocPortable);
  memory = static_cast<std::byte*>(data);
}

CudaDevice::Slots::~Slots() {
  const Current here(device);
  const CudaCalls& calls = device.driver.calls;
  if (memory != nullptr) calls.mem_free_host(memory);
  if (called != nullptr) calls.event_destroy(called);
  for (const auto* const events : {&arrived, &carried})
    for (CudaEvent const event : *events)
      if (event != nullptr) calls.event_destroy(event);
}

// Where the device has failed, nothing is used either.
bool CudaDevice::Slots::idle() const {
  const auto over = [&](CudaEvent event) {
    return device.driver.calls.event_query(event) != CudaResult::NotReady;
  };
  return std::all_of(arrived.begin(), arrived.end(), over) &&
         std::all_of(carried.begin(), carried.end(), over);
}

std::unique_ptr<CudaDevice::Slots> CudaDevice::take(std::size_t bytes) {
  const Current here(*this);
  const std::size_t size = std::bit_ceil(std::max(bytes, kSmallest));
  std::vector<Left> over;  // let go without the lock: Python may come to anything then
  {
    const std::lock_guard lock(mutex_);
    over = sweep();
    auto best = free_.end();
    for (auto one = free_.begin(); one != free_.end(); ++one)
      if ((*one)->bytes >= size && (best == free_.end() || (*one)->bytes < (*best)->bytes))
        best = one;
    if (best != free_.end()) {
      std::unique_ptr<Slots> found = std::move(*best);
      free_.erase(best);
      return found;
    }
  }
  auto made = std::make_unique<Slots>(*this, size);
  made->allocate();
  return made;
}

void CudaDevice::give_back(std::unique_ptr<Slots> slots, std::shared_ptr<void> keep) {
  const Current here(*this);
  std::vector<Left> over;
  const std::lock_guard lock(mutex_);
  left_.push_back({std::move(slots), std::move(keep)});
  over = sweep();
}

// What nobody uses any more becomes free; returns what is to be let go.
std::vector<CudaDevice::Left> CudaDevice::sweep() {
  std::vector<Left> over;
  const auto used = std::partition(left_.begin(), left_.end(),
                                   [](const Left& left) { return !left.slots->idle(); });
  std::move(used, left_.end(), std::back_inserter(over));
  left_.erase(used, left_.end());
  std::size_t spare = 0;
  for (const auto& slots : free_) spare += slots->bytes;
  for (Left& left : over) {
    spare += left.slots->bytes;
    if (spare > kSpare)
      spare -= left.slots->bytes;
    else
      free_.push_back(std::move(left.slots));
  }
  return over;
}

void CudaDevice::put(ConstBytes bytes, std::byte* to, CudaStream stream) {
  std::unique_ptr<Slots> slots = take(bytes.size());
  const Current here(*this);
  copy_bytes(bytes.data(), slots->memory, bytes.size());
  if (!bytes.empty())
    driver.must(driver.calls.memcpy_async, reinterpret_cast<CudaAddress>(to),
                reinterpret_cast<CudaAddress>(slots->memory), bytes.size(), stream);
  driver.must(driver.calls.event_record, slots->carried[0], stream);
  give_back(std::move(slots), nullptr);
}

CudaStream CudaDevice::take_stream() {
  {
    const std::lock_guard lock(mutex_);
    if (!streams_.empty()) {
      CudaStream const stream = streams_.back();
      streams_.pop_back();
      return stream;
    }
  }
  const Current here(*this);
  int least = 0;
  int greatest = 0;
  CudaStream stream = nullptr;
  driver.must(driver.calls.ctx_get_stream_priority_range, &least, &greatest);
  driver.must(driver.calls.stream_create_with_priority, &stream, kCudaStreamNonBlocking, greatest);
  return stream;
}

void CudaDevice::give_back(CudaStream stream) {
  const std::lock_guard lock(mutex_);
  streams_.push_back(stream);
}

bool CudaDevice::is_capturing(CudaStream stream) const {
  int status = kCudaCaptureStatusNone;
  const CudaResult result = driver.calls.stream_is_capturing(stream, &status);
  return result == CudaResult::StreamCaptureImplicit || status != kCudaCaptureStatusNone;
}

bool CudaDevice::reached(CudaEvent event) const {
  const Current here(*this);
  const CudaResult result = driver.calls.event_query(event);
  if (result == CudaResult::NotReady) return false;
  driver.check(driver.calls.event_query.name(), result);
  return true;
}

}  // namespace quoit
