// A stand-in for CUDA's driver, libcuda, on the test accelerator's streams and memory: what quoit
// calls of it, and what tests need besides (fake_cuda_*). As on a GPU, copies are asynchronous, an
// event that was recorded again does not move those that wait for it, and what needs a context
// fails without one. What goes between processes is in cuda_ipc.cpp.

#include <cstring>

#include "cuda_fake.h"

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

Result cuDeviceGetCount(int* count) {
  *count = kDevices;
  return kSuccess;
}

struct Uuid {
  char bytes[16];
};

Result cuDeviceGetUuid_v2(Uuid* uuid, int device) {
  *uuid = {"a fake device 0"};
  uuid->bytes[14] = static_cast<char>('0' + device);
  return kSuccess;
}

Result cuDeviceCanAccessPeer(int* can, int, int) {
  *can = state().peer_access;
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
  const fake::Block* block = fake::find_block(address, 1);
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
  const auto known = [bytes](uintptr_t at) {
    return is_pinned(at, bytes) || fake::find_block(at, bytes) != nullptr || is_mapped(at, bytes);
  };
  if (!known(from) || !known(to)) return kInvalidValue;
  if (stream->device != current.back()->device) return kInvalidHandle;
  if (is_pinned(from, bytes) || is_pinned(to, bytes)) ++state().host_copies;
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

Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return told("cuCtxGetStreamPriorityRange");
}

Result cuStreamCreateWithPriority(void** handle, unsigned flags, int) {
  return cuStreamCreate(handle, flags);
}

Result cuStreamWaitEvent(void* handle, Event* event, unsigned) {
  if (const Result result = told("cuStreamWaitEvent")) return result;
  if (event->cell != nullptr) wait_for_shared(*event, *stream_of(handle));
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

Result cuEventCreate(Event** event, unsigned flags) {
  constexpr unsigned kDisableTiming = 2;
  constexpr unsigned kInterprocess = 4;
  if (const Result result = in_context("cuEventCreate")) return result;
  if ((flags & kInterprocess) != 0 && (flags & kDisableTiming) == 0) return kInvalidValue;
  *event = new Event{current.back()->device, nullptr};
  if ((flags & kInterprocess) != 0) share(**event);
  return kSuccess;
}

Result cuEventRecord(Event* event, void* handle) {
  if (const Result result = in_context("cuEventRecord")) return result;
  fake::Stream* stream = stream_of(handle);
  if (stream->device != event->device) return kInvalidHandle;
  if (event->cell != nullptr)
    record_shared(*event, *stream);
  else
    event->mark = stream->mark();
  return kSuccess;
}

Result cuEventQuery(Event* event) {
  if (const Result result = told("cuEventQuery")) return result;
  if (const Result result = uncaptured()) return result;
  if (event->cell != nullptr)
    return event->cell->reached >= event->cell->recorded ? kSuccess : kNotReady;
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
  return fake::allocate(*stream_of(stream), bytes)->data;
}

void fake_cuda_free(void* data) {
  fake::release(fake::find_block(reinterpret_cast<uintptr_t>(data), 1));
}

// How many copies went between memory of devices and of the host.
long fake_cuda_host_copies() { return state().host_copies; }

// Whether devices reach each other's memory, from now on.
void fake_cuda_set_peer_access(int reach) { state().peer_access = reach; }

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
