// A stand-in for CUDA's driver, libcuda, on the test accelerator's streams and memory: what quoit
// calls of it, and what tests need besides (fake_cuda_*). As on a GPU, copies are asynchronous, an
// event that was recorded again does not move those that wait for it, and what needs a context
// fails without one.

#include <algorithm>
#include <cstring>
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

struct Event {
  int device;
  std::shared_ptr<fake::Mark> mark;
};

// Leaked, as all that threads of streams may still touch.
struct State {
  std::mutex mutex;
  std::map<uintptr_t, fake::Block*> blocks;  // of devices
  std::string failing;                       // a function
  Result result = kSuccess;
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

fake::Block* block_with(uintptr_t address, size_t bytes) {
  std::lock_guard lock(state().mutex);
  auto next = state().blocks.upper_bound(address);
  if (next == state().blocks.begin()) return nullptr;
  fake::Block* block = std::prev(next)->second;
  const auto begin = reinterpret_cast<uintptr_t>(block->data);
  return address + bytes <= begin + block->bytes ? block : nullptr;
}

bool is_pinned(uintptr_t address, size_t bytes) {
  const auto block = fake::find_pinned(reinterpret_cast<const void*>(address));
  return block && address + bytes <= reinterpret_cast<uintptr_t>(block->data) + block->bytes;
}

}  // namespace

extern "C" {

Result cuGetErrorName(Result result, const char** name) {
  for (const Name& known : kNames)
    if (known.result == result) return *name = known.name, kSuccess;
  return *name = nullptr, kInvalidValue;
}

Result cuGetErrorString(Result result, const char** description) {
  for (const Name& known : kNames)
    if (known.result == result) return *description = known.description, kSuccess;
  return *description = nullptr, kInvalidValue;
}

Result cuInit(unsigned) { return told("cuInit"); }

Result cuDeviceGet(int* device, int ordinal) {
  if (ordinal < 0 || ordinal >= kDevices) return kInvalidDevice;
  *device = ordinal;
  return kSuccess;
}

Result cuDevicePrimaryCtxRetain(Context** context, int device) {
  *context = &contexts[device];
  return kSuccess;
}

Result cuCtxPushCurrent_v2(Context* context) {
  current.push_back(context);
  return kSuccess;
}

Result cuCtxPopCurrent_v2(Context** context) {
  if (current.empty()) return kInvalidContext;
  *context = current.back();
  current.pop_back();
  return kSuccess;
}

Result cuCtxGetDevice(int* device) {
  if (current.empty()) return kInvalidContext;
  *device = current.back()->device;
  return kSuccess;
}

Result cuPointerGetAttribute(void* data, int attribute, unsigned long long address) {
  constexpr int kDeviceOrdinal = 9;
  const fake::Block* block = block_with(address, 1);
  if (attribute != kDeviceOrdinal || block == nullptr) return kInvalidValue;
  *static_cast<int*>(data) = block->home->device;
  return kSuccess;
}

Result cuMemHostAlloc(void** data, size_t bytes, unsigned) {
  if (const Result result = in_context("cuMemHostAlloc")) return result;
  if (const Result result = uncaptured()) return result;
  *data = fake::allocate_pinned(bytes);
  return kSuccess;
}

Result cuMemFreeHost(void* data) {
  if (const Result result = in_context("cuMemFreeHost")) return result;
  fake::release_pinned(data);
  return kSuccess;
}

Result cuMemcpyAsync(unsigned long long to, unsigned long long from, size_t bytes, void* handle) {
  if (const Result result = in_context("cuMemcpyAsync")) return result;
  fake::Stream* stream = stream_of(handle);
  const bool up = is_pinned(from, bytes);
  const fake::Block* block = block_with(up ? to : from, bytes);
  if (block == nullptr || !(up || is_pinned(to, bytes))) return kInvalidValue;
  if (stream->device != current.back()->device) return kInvalidHandle;
  stream->enqueue_late([to, from, bytes] {
    std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  });
  return kSuccess;
}

Result cuStreamCreate(void** handle, unsigned) {
  if (const Result result = in_context("cuStreamCreate")) return result;
  *handle = &fake::new_stream(current.back()->device);
  return kSuccess;
}

Result cuStreamWaitEvent(void* handle, Event* event, unsigned) {
  if (const Result result = told("cuStreamWaitEvent")) return result;
  if (event->mark) stream_of(handle)->wait_for(event->mark);
  return kSuccess;
}

Result cuStreamIsCapturing(void*, int* status) {
  *status = fake_is_capturing();
  return kSuccess;
}

Result cuThreadExchangeStreamCaptureMode(int* mode) {
  std::swap(*mode, capture_mode);
  return kSuccess;
}

Result cuEventCreate(Event** event, unsigned) {
  if (const Result result = in_context("cuEventCreate")) return result;
  *event = new Event{current.back()->device, nullptr};
  return kSuccess;
}

Result cuEventRecord(Event* event, void* handle) {
  if (const Result result = in_context("cuEventRecord")) return result;
  fake::Stream* stream = stream_of(handle);
  if (stream->device != event->device) return kInvalidHandle;
  event->mark = stream->mark();
  return kSuccess;
}

Result cuEventQuery(Event* event) {
  if (const Result result = told("cuEventQuery")) return result;
  if (const Result result = uncaptured()) return result;
  return !event->mark || event->mark->reached() ? kSuccess : kNotReady;
}

Result cuEventDestroy_v2(Event* event) {
  delete event;
  return kSuccess;
}

// For the tests. A stream is what quoit gets: a pointer, or 1 or 2 for a default one.

// The function fails with this result from now on; "" for none.
void fake_cuda_fail(const char* function, int result) {
  std::lock_guard lock(state().mutex);
  state().failing = function;
  state().result = static_cast<Result>(result);
}

// Whether this thread is as if quoit had never been there: no context is current, captures matter.
int fake_cuda_untouched() { return current.empty() && capture_mode != kRelaxed ? 1 : 0; }

void* fake_cuda_stream(int device) { return &fake::new_stream(device); }

// Memory of the stream's device, which is freed in the order of the stream.
void* fake_cuda_allocate(void* stream, size_t bytes) {
  fake::Block* block = fake::allocate(*stream_of(stream), bytes);
  std::lock_guard lock(state().mutex);
  state().blocks.emplace(reinterpret_cast<uintptr_t>(block->data), block);
  return block->data;
}

void fake_cuda_free(void* data) {
  fake::Block* block = block_with(reinterpret_cast<uintptr_t>(data), 1);
  {
    std::lock_guard lock(state().mutex);
    state().blocks.erase(reinterpret_cast<uintptr_t>(data));
  }
  fake::release(block);
}

// Puts bytes of the host, as they are now, into memory of a device when the stream comes to it.
void fake_cuda_put(void* stream, void* to, const void* from, size_t bytes) {
  const auto* begin = static_cast<const char*>(from);
  stream_of(stream)->enqueue_late([to, values = std::vector<char>(begin, begin + bytes)] {
    std::memcpy(to, values.data(), values.size());
  });
}

// Reads when the stream comes to it, and waits for that.
void fake_cuda_get(void* stream, void* to, const void* from, size_t bytes) {
  stream_of(stream)->enqueue_late([=] { std::memcpy(to, from, bytes); });
  stream_of(stream)->synchronize();
}

// What is put into `after` from now on comes after all that is in `before`.
void fake_cuda_order(void* before, void* after) {
  stream_of(after)->wait_for(stream_of(before)->mark());
}

void fake_cuda_synchronize(void* stream) { stream_of(stream)->synchronize(); }
}
