// CUDA IPC in the stand-in for CUDA's driver: memory of a device that other processes map, and
// events that they wait for. As with CUDA's, a wait is for what was last recorded when it is put
// into a stream, and a handle cannot be opened by the process that it comes from. What is freed or
// closed is unmapped at once, so that work which comes too late ends the process. CUDA does not say
// what those find that wait for a process which died; here they go on.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <thread>

#include "cuda_fake.h"

namespace {

constexpr size_t kCellBytes = 1 << 20;  // for the events of one process
constexpr unsigned char kPoison = 0xFF;
constexpr auto kLook = std::chrono::microseconds(20);

struct Handle {
  char bytes[64];
};

// What is in a Handle.
struct Place {
  int process;
  int fd;
  size_t offset;
  size_t bytes;
  int device;
};

struct Mapping {
  int fd;  // -1: another process's
  size_t bytes;
  int device;
};

// Leaked, as streams may still touch what it maps.
struct Shared {
  std::mutex mutex;
  std::map<uintptr_t, Mapping> mappings;
  int cells_fd = -1;
  char* cells = nullptr;
  size_t used = 0;
  std::map<std::pair<int, int>, char*> theirs;  // cells, by process and its file
};
Shared& shared() {
  static auto* one = new Shared;
  return *one;
}

char* map(int fd, size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
}

int new_file(size_t bytes) {
  const int fd = memfd_create("fake-device", MFD_CLOEXEC);
  return fd >= 0 && ftruncate(fd, static_cast<off_t>(bytes)) == 0 ? fd : -1;
}

char* map_theirs(const Place& place) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/fd/%d", place.process, place.fd);
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return nullptr;
  char* memory = map(fd, place.bytes);
  close(fd);
  return memory;
}

Handle handle_of(const Place& place) {
  Handle handle{};
  static_assert(sizeof place <= sizeof handle);
  std::memcpy(&handle, &place, sizeof place);
  return handle;
}

Place place_in(const Handle& handle) {
  Place place;
  std::memcpy(&place, &handle, sizeof place);
  return place;
}

bool runs(int process) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/stat", process);
  std::FILE* file = std::fopen(path, "r");
  if (file == nullptr) return false;
  char line[512] = {};
  const bool read = std::fgets(line, sizeof line, file) != nullptr;
  std::fclose(file);
  const char* state = read ? std::strrchr(line, ')') : nullptr;
  return state != nullptr && state[1] != 0 && state[2] != 'Z' && state[2] != 'X';
}

Cell* cell_at(char* cells, size_t offset) { return reinterpret_cast<Cell*>(cells + offset); }

void share(Event& event) {
  std::lock_guard lock(shared().mutex);
  if (shared().cells == nullptr) {
    shared().cells_fd = new_file(kCellBytes);
    shared().cells = map(shared().cells_fd, kCellBytes);
  }
  if (shared().used + 64 > kCellBytes) std::abort();
  event.cell = cell_at(shared().cells, shared().used);
  event.owner = getpid();
  shared().used += 64;
}

void record_shared(Event& event, fake::Stream& stream) {
  Cell* cell = event.cell;
  const uint64_t number = ++cell->recorded;
  stream.enqueue_always([cell, number] {
    uint64_t before = cell->reached;
    while (before < number && !cell->reached.compare_exchange_weak(before, number)) {
    }
  });
}

void wait_for_shared(const Event& event, fake::Stream& stream) {
  Cell* cell = event.cell;
  const uint64_t number = cell->recorded;
  stream.enqueue([cell, number, owner = event.owner] {
    for (unsigned looks = 1; cell->reached < number; ++looks) {
      std::this_thread::sleep_for(kLook);
      if (looks % 500 == 0 && !runs(owner)) return;
    }
  });
}

bool is_mapped(uintptr_t address, size_t bytes) {
  std::lock_guard lock(shared().mutex);
  auto next = shared().mappings.upper_bound(address);
  if (next == shared().mappings.begin()) return false;
  --next;
  return address + bytes <= next->first + next->second.bytes;
}

}  // namespace

extern "C" {

Result cuMemAlloc_v2(unsigned long long* address, size_t bytes) {
  if (const Result result = in_context("cuMemAlloc")) return result;
  const int fd = new_file(bytes);
  char* memory = fd < 0 ? nullptr : map(fd, bytes);
  if (memory == nullptr) return kOutOfMemory;
  std::memset(memory, kPoison, bytes);
  *address = reinterpret_cast<uintptr_t>(memory);
  std::lock_guard lock(shared().mutex);
  shared().mappings[*address] = {fd, bytes, current.back()->device};
  return kSuccess;
}

Result cuMemFree_v2(unsigned long long address) {
  if (const Result result = in_context("cuMemFree")) return result;
  std::lock_guard lock(shared().mutex);
  const auto found = shared().mappings.find(address);
  if (found == shared().mappings.end() || found->second.fd < 0) return kInvalidValue;
  auto* memory = reinterpret_cast<char*>(address);
  std::memset(memory, kPoison, found->second.bytes);  // for those who have it open
  munmap(memory, found->second.bytes);
  close(found->second.fd);
  shared().mappings.erase(found);
  return kSuccess;
}

Result cuIpcGetMemHandle(Handle* handle, unsigned long long address) {
  if (const Result result = told("cuIpcGetMemHandle")) return result;
  std::lock_guard lock(shared().mutex);
  const auto found = shared().mappings.find(address);
  if (found == shared().mappings.end() || found->second.fd < 0) return kInvalidValue;
  const auto& [fd, bytes, device] = found->second;
  *handle = handle_of({getpid(), fd, 0, bytes, device});
  return kSuccess;
}

Result cuIpcOpenMemHandle_v2(unsigned long long* address, Handle handle, unsigned flags) {
  constexpr unsigned kLazyPeerAccess = 1;
  if (const Result result = in_context("cuIpcOpenMemHandle")) return result;
  const Place place = place_in(handle);
  if (place.process == getpid()) return kInvalidContext;
  const bool elsewhere = place.device != current.back()->device;
  if (elsewhere && (state().peer_access == 0 || (flags & kLazyPeerAccess) == 0))
    return kNoPeerAccess;
  char* memory = map_theirs(place);
  if (memory == nullptr) return kInvalidHandle;
  *address = reinterpret_cast<uintptr_t>(memory);
  std::lock_guard lock(shared().mutex);
  shared().mappings[*address] = {-1, place.bytes, place.device};
  return kSuccess;
}

Result cuIpcCloseMemHandle(unsigned long long address) {
  if (const Result result = in_context("cuIpcCloseMemHandle")) return result;
  std::lock_guard lock(shared().mutex);
  const auto found = shared().mappings.find(address);
  if (found == shared().mappings.end() || found->second.fd >= 0) return kInvalidValue;
  munmap(reinterpret_cast<void*>(address), found->second.bytes);
  shared().mappings.erase(found);
  return kSuccess;
}

Result cuIpcGetEventHandle(Handle* handle, Event* event) {
  if (const Result result = told("cuIpcGetEventHandle")) return result;
  if (event->cell == nullptr || event->owner != getpid()) return kInvalidHandle;
  std::lock_guard lock(shared().mutex);
  const auto offset = static_cast<size_t>(reinterpret_cast<char*>(event->cell) - shared().cells);
  *handle = handle_of({getpid(), shared().cells_fd, offset, kCellBytes, event->device});
  return kSuccess;
}

Result cuIpcOpenEventHandle(Event** event, Handle handle) {
  if (const Result result = in_context("cuIpcOpenEventHandle")) return result;
  const Place place = place_in(handle);
  if (place.process == getpid()) return kInvalidContext;
  std::lock_guard lock(shared().mutex);
  char*& cells = shared().theirs[{place.process, place.fd}];
  if (cells == nullptr) cells = map_theirs(place);
  if (cells == nullptr) return kInvalidHandle;
  *event = new Event{current.back()->device, nullptr, cell_at(cells, place.offset), place.process};
  return kSuccess;
}

// How much memory of the device this process has, and of others: not freed, not closed.
int fake_cuda_own_memories() {
  std::lock_guard lock(shared().mutex);
  int count = 0;
  for (const auto& [address, mapping] : shared().mappings) count += mapping.fd >= 0 ? 1 : 0;
  return count;
}
int fake_cuda_others_memories() {
  std::lock_guard lock(shared().mutex);
  int count = 0;
  for (const auto& [address, mapping] : shared().mappings) count += mapping.fd < 0 ? 1 : 0;
  return count;
}
}
