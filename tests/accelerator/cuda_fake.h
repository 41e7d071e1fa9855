#pragma once
// What the files of the stand-in for CUDA's driver share: results, contexts, events.

#include <atomic>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "streams.h"

namespace {

using fake::kDevices;

enum Result : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidContext = 201,
  kNoPeerAccess = 217,
  kInvalidHandle = 400,
  kNotReady = 600,
  kIllegalAddress = 700,
  kCaptureUnsupported = 900,
};

struct Name {
  Result result;
  const char* name;
  const char* description;
};
constexpr Name kNames[] = {
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {kNoDevice, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {kNoPeerAccess, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED",
     "peer access is not supported between these two devices"},
    {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {kIllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {kCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
};
constexpr int kRelaxed = 2;

struct Context {
  int device;
};
Context contexts[kDevices] = {{0}, {1}};
thread_local std::vector<Context*> current;
thread_local int capture_mode = 0;

// Of an event that processes share: how often it was recorded, and up to which time it was reached.
struct Cell {
  std::atomic<uint64_t> recorded;
  std::atomic<uint64_t> reached;
};

struct Event {
  int device;
  std::shared_ptr<fake::Mark> mark;
  Cell* cell = nullptr;  // of processes: in memory that they share
  int owner = 0;         // the process that records it
};

// Those of cuda_ipc.cpp.
void share(Event& event);
void record_shared(Event& event, fake::Stream& stream);
void wait_for_shared(const Event& event, fake::Stream& stream);
bool is_mapped(uintptr_t address, size_t bytes);  // of cuMemAlloc, or of another process

// Leaked, as all that threads of streams may still touch.
struct State {
  State() {
    // As "cuIpcOpenMemHandle", which then fails in whatever process: what a test cannot reach.
    if (const char* function = std::getenv("FAKE_CUDA_FAIL")) {
      failing = function;
      result = kInvalidHandle;
    }
  }

  std::mutex mutex;
  std::string failing;  // a function
  Result result = kSuccess;
  int peer_access = 1;
  std::atomic<long> host_copies{0};
};
State& state() {
  static auto* one = new State;
  return *one;
}

// What the function is told to fail with.
Result told(const char* function) {
  std::lock_guard lock(state().mutex);
  return state().failing == function ? state().result : kSuccess;
}

Result in_context(const char* function) {
  if (const Result result = told(function)) return result;
  return current.empty() ? kInvalidContext : kSuccess;
}

// What a capture elsewhere would be spoilt by.
Result uncaptured() {
  return fake_is_capturing() != 0 && capture_mode != kRelaxed ? kCaptureUnsupported : kSuccess;
}

fake::Stream* stream_of(void* handle) {
  const auto number = reinterpret_cast<uintptr_t>(handle);
  if (number > 2) return static_cast<fake::Stream*>(handle);
  const int device = current.empty() ? 0 : current.back()->device;
  if (number < 2) return &fake::stream(device, 0);
  thread_local fake::Stream* own[kDevices] = {};
  if (own[device] == nullptr) own[device] = &fake::new_stream(device);
  return own[device];
}

bool is_pinned(uintptr_t address, size_t bytes) {
  const auto block = fake::find_pinned(reinterpret_cast<const void*>(address));
  return block && address + bytes <= reinterpret_cast<uintptr_t>(block->data) + block->bytes;
}

}  // namespace
