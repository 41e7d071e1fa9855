#include "collective/cuda_peers.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <mutex>
#include <optional>

#include "core/host.h"

namespace quoit {
namespace {

CudaUuid uuid_of(const CudaDriver& driver, int number) {
  int device = 0;
  CudaUuid uuid{};
  driver.must(driver.calls.device_get, &device, number);
  driver.must(driver.calls.device_get_uuid, &uuid, device);
  return uuid;
}

bool alike(const CudaUuid& a, const CudaUuid& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

// The number that a device has in this process; nothing where CUDA_VISIBLE_DEVICES hides it.
std::optional<int> number_of(const CudaDriver& driver, const CudaUuid& uuid) {
  int count = 0;
  driver.must(driver.calls.device_get_count, &count);
  for (int number = 0; number < count; ++number)
    if (alike(uuid_of(driver, number), uuid)) return number;
  return std::nullopt;
}

// Devices that are hidden are tried: since CUDA 10.1 their memory can be opened.
void check_reach(const CudaDevice& device, const CudaOffer& offer) {
  const CudaDriver& driver = device.driver;
  const auto there = number_of(driver, offer.device);
  if (!there || *there == device.number) return;
  QUOIT_CHECK(offer.process != ::getpid(), UnavailableError, "ranks of one process are on CUDA ",
              "devices ", device.number, " and ", *there);
  int mine = 0;
  int theirs = 0;
  int reached = 0;
  driver.must(driver.calls.device_get, &mine, device.number);
  driver.must(driver.calls.device_get, &theirs, *there);
  driver.must(driver.calls.device_can_access_peer, &reached, mine, theirs);
  QUOIT_CHECK(reached != 0, UnavailableError, "CUDA devices ", device.number, " and ", *there,
              " do not reach each other's memory (no P2P: `nvidia-smi topo -p2p r` shows it)");
}

struct Left {
  CudaDevice& device;
  CudaLegacy legacy;
  std::vector<CudaEvent> ends;  // of the streams
  bool closed = false;
};

struct Legacies {
  std::mutex mutex;
  std::list<Left> left;
};
// Never destroyed: at the end of the process the driver may have gone first.
Legacies& legacies() {
  static auto& one = *new Legacies;
  return one;
}

// A device that has failed uses nothing any more.
bool idle(const Left& left) {
  const CudaDevice::Current here(left.device);
  const CudaCalls& calls = left.device.driver.calls;
  return std::all_of(left.ends.begin(), left.ends.end(),
                     [&](CudaEvent end) { return calls.event_query(end) != CudaResult::NotReady; });
}

// Whether nothing is left of it.
bool settle(Left& left) {
  if (!left.closed) {
    if (!idle(left)) return false;
    left.legacy.windows.clear();
    left.closed = true;
    const CudaDevice::Current here(left.device);
    for (CudaEvent const end : left.ends) left.device.driver.calls.event_destroy(end);
    left.legacy.closed();
  }
  return left.legacy.unused();
}

}  // namespace

CudaScratch::CudaScratch(CudaDevice& device, std::size_t bytes) : device_(device) {
  const CudaDevice::Current here(device_);
  try {
    allocate(bytes);
  } catch (...) {
    free();
    throw;
  }
}

void CudaScratch::allocate(std::size_t bytes) {
  const CudaDriver& driver = device_.driver;
  offer_.process = ::getpid();
  offer_.start_time = start_time_of(offer_.process);
  offer_.device = uuid_of(driver, device_.number);
  if (bytes > 0) {
    driver.must(driver.calls.mem_alloc, &memory_, bytes);
    driver.must(driver.calls.ipc_get_mem_handle, &offer_.memory, memory_);
    offer_.address = memory_;
  }
  for (std::size_t i = 0; i < kCudaMarks; ++i) {
    driver.must(driver.calls.event_create, &events_[i],
                kCudaEventInterprocess | kCudaEventDisableTiming);
    driver.must(driver.calls.ipc_get_event_handle, &offer_.handles[i], events_[i]);
    offer_.events[i] = reinterpret_cast<std::uint64_t>(events_[i]);
  }
}

CudaScratch::~CudaScratch() {
  const CudaDevice::Current here(device_);
  free();
}

void CudaScratch::free() {
  const CudaCalls& calls = device_.driver.calls;
  for (CudaEvent const event : events_)
    if (event != nullptr) calls.event_destroy(event);
  if (memory_ != 0) calls.mem_free(memory_);
}

// A handle cannot be opened in the process that it comes from, and need not be.
CudaWindow::CudaWindow(CudaDevice& device, const CudaOffer& offer)
    : device_(device), own_process_(offer.process == ::getpid()) {
  check_reach(device, offer);
  const CudaDevice::Current here(device_);
  if (own_process_) {
    memory_ = offer.address;
    for (std::size_t i = 0; i < kCudaMarks; ++i)
      events_[i] = reinterpret_cast<CudaEvent>(offer.events[i]);
    return;
  }
  try {
    open(offer);
  } catch (...) {
    close();
    throw;
  }
}

void CudaWindow::open(const CudaOffer& offer) {
  const CudaDriver& driver = device_.driver;
  if (offer.address != 0)
    driver.must(driver.calls.ipc_open_mem_handle, &memory_, offer.memory, kCudaIpcLazyPeerAccess);
  for (std::size_t i = 0; i < kCudaMarks; ++i)
    driver.must(driver.calls.ipc_open_event_handle, &events_[i], offer.handles[i]);
}

CudaWindow::~CudaWindow() {
  const CudaDevice::Current here(device_);
  close();
}

void CudaWindow::close() {
  if (own_process_) return;
  const CudaCalls& calls = device_.driver.calls;
  for (CudaEvent const event : events_)
    if (event != nullptr) calls.event_destroy(event);
  if (memory_ != 0) calls.ipc_close_mem_handle(memory_);
}

void retire(CudaDevice& device, CudaLegacy legacy) {
  Left left{device, std::move(legacy), {}};
  {
    const CudaDevice::Current here(device);
    const CudaCalls& calls = device.driver.calls;
    for (const auto& stream : left.legacy.streams) {
      CudaEvent end = nullptr;
      if (calls.event_create(&end, kCudaEventDisableTiming) != CudaResult::Success) continue;
      calls.event_record(end, stream->handle);
      left.ends.push_back(end);
    }
  }
  Legacies& all = legacies();
  {
    const std::scoped_lock lock(all.mutex);
    all.left.push_back(std::move(left));
  }
  sweep_legacies();
}

void sweep_legacies() {
  Legacies& all = legacies();
  const std::scoped_lock lock(all.mutex);
  all.left.remove_if([](Left& left) { return settle(left); });
}

}  // namespace quoit
