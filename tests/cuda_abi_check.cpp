// Compares transport/cuda_abi.h with CUDA's own cuda.h: signatures and constants by compiling,
// names of functions by running; prints what differs and returns how many do. Needs no driver.
#include <cuda.h>

#include <cstdio>
#include <cstring>
#include <type_traits>

#include "transport/cuda_abi.h"

using namespace quoit;

// What cuda_abi.h must have where cuda.h says T.
template <class T>
struct Ours {
  using type = std::conditional_t<std::is_enum_v<T>, int, T>;
};
template <class T>
struct Ours<T*> {
  using type = typename Ours<T>::type*;
};
template <>
struct Ours<CUresult> {
  using type = CudaResult;
};
template <>
struct Ours<CUcontext> {
  using type = CudaContext;
};
template <>
struct Ours<CUstream> {
  using type = CudaStream;
};
template <>
struct Ours<CUevent> {
  using type = CudaEvent;
};

template <>
struct Ours<CUuuid> {
  using type = CudaUuid;
};
template <>
struct Ours<CUipcMemHandle> {
  using type = CudaIpcHandle;
};
template <>
struct Ours<CUipcEventHandle> {
  using type = CudaIpcHandle;
};

template <class... Args>
CudaCall<typename Ours<Args>::type...> ours(CUresult (*)(Args...));

static_assert(CudaResult::Success == CudaResult{CUDA_SUCCESS} &&
              CudaResult::NotReady == CudaResult{CUDA_ERROR_NOT_READY} &&
              CudaResult::StreamCaptureImplicit == CudaResult{CUDA_ERROR_STREAM_CAPTURE_IMPLICIT});
static_assert(kCudaStreamNonBlocking == CU_STREAM_NON_BLOCKING &&
              kCudaEventDisableTiming == CU_EVENT_DISABLE_TIMING &&
              kCudaMemHostAllocPortable == CU_MEMHOSTALLOC_PORTABLE);
static_assert(kCudaEventInterprocess == CU_EVENT_INTERPROCESS &&
              kCudaIpcLazyPeerAccess == CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
static_assert(sizeof(CudaIpcHandle) == sizeof(CUipcMemHandle) &&
              sizeof(CudaIpcHandle) == sizeof(CUipcEventHandle) &&
              alignof(CudaIpcHandle) == alignof(CUipcMemHandle) &&
              sizeof(CudaUuid) == sizeof(CUuuid));
static_assert(kCudaPointerDeviceOrdinal == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL &&
              kCudaCaptureStatusNone == CU_STREAM_CAPTURE_STATUS_NONE &&
              kCudaCaptureModeRelaxed == CU_STREAM_CAPTURE_MODE_RELAXED);

// The macros of cuda.h give some names another version.
#define TEXT(name) #name
#define EXPANDED(name) TEXT(name)
#define CHECK(member, function)                                                          \
  static_assert(std::is_same_v<decltype(CudaCalls::member), decltype(ours(&function))>); \
  ++checked;                                                                             \
  if (std::strcmp(calls.member.name(), EXPANDED(function)) != 0) {                       \
    ++differences;                                                                       \
    std::printf("%s is %s\n", calls.member.name(), EXPANDED(function));                  \
  }

int main() {
  int asked = 0;
  const CudaCalls calls([&](const char*) -> void* { return ++asked, nullptr; });
  int checked = 0;
  int differences = 0;
  CHECK(get_error_name, cuGetErrorName)
  CHECK(get_error_string, cuGetErrorString)
  CHECK(init, cuInit)
  CHECK(device_get, cuDeviceGet)
  CHECK(device_get_count, cuDeviceGetCount)
  CHECK(device_get_uuid, cuDeviceGetUuid)
  CHECK(device_can_access_peer, cuDeviceCanAccessPeer)
  CHECK(device_primary_ctx_retain, cuDevicePrimaryCtxRetain)
  CHECK(ctx_push_current, cuCtxPushCurrent)
  CHECK(ctx_pop_current, cuCtxPopCurrent)
  CHECK(ctx_get_device, cuCtxGetDevice)
  CHECK(ctx_get_stream_priority_range, cuCtxGetStreamPriorityRange)
  CHECK(pointer_get_attribute, cuPointerGetAttribute)
  CHECK(mem_alloc, cuMemAlloc)
  CHECK(mem_free, cuMemFree)
  CHECK(ipc_get_mem_handle, cuIpcGetMemHandle)
  CHECK(ipc_open_mem_handle, cuIpcOpenMemHandle)
  CHECK(ipc_close_mem_handle, cuIpcCloseMemHandle)
  CHECK(ipc_get_event_handle, cuIpcGetEventHandle)
  CHECK(ipc_open_event_handle, cuIpcOpenEventHandle)
  CHECK(mem_host_alloc, cuMemHostAlloc)
  CHECK(mem_free_host, cuMemFreeHost)
  CHECK(memcpy_async, cuMemcpyAsync)
  CHECK(stream_create, cuStreamCreate)
  CHECK(stream_create_with_priority, cuStreamCreateWithPriority)
  CHECK(stream_wait_event, cuStreamWaitEvent)
  CHECK(stream_is_capturing, cuStreamIsCapturing)
  CHECK(thread_exchange_stream_capture_mode, cuThreadExchangeStreamCaptureMode)
  CHECK(event_create, cuEventCreate)
  CHECK(event_record, cuEventRecord)
  CHECK(event_query, cuEventQuery)
  CHECK(event_destroy, cuEventDestroy)
  std::printf("%d of %d functions, %d differences\n", checked, asked, differences);
  return differences;
}
