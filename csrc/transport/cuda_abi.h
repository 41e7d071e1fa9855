#pragma once
// The binary interface of CUDA's driver (libcuda), written down here so that Quoit needs no CUDA to
// build and serves whichever driver a machine has: what CUDA 11.4 and later document and Quoit
// uses.
#include <cstddef>
#include <functional>
#include <utility>

namespace quoit {

enum class CudaResult : int {
  Success = 0,
  NotReady = 600,               // of a query: not over yet
  StreamCaptureImplicit = 906,  // the default stream, while another is captured
};

using CudaContext = struct CudaContextOfDriver*;
using CudaStream = struct CudaStreamOfDriver*;
using CudaEvent = struct CudaEventOfDriver*;
using CudaAddress = unsigned long long;  // of the device, or of page-locked memory of the host

inline constexpr unsigned kCudaStreamNonBlocking = 1;   // not behind the default stream
inline constexpr unsigned kCudaEventDisableTiming = 2;  // cheaper to record and to wait for
inline constexpr unsigned kCudaEventInterprocess = 4;   // without timing only
inline constexpr unsigned kCudaIpcLazyPeerAccess = 1;  // to another device's memory as to one's own
inline constexpr unsigned kCudaMemHostAllocPortable = 1;
inline constexpr int kCudaPointerDeviceOrdinal = 9;  // which device an address belongs to
inline constexpr int kCudaCaptureStatusNone = 0;
inline constexpr int kCudaCaptureModeRelaxed = 2;

// Names memory or an event for another process of the host. Passed by value.
struct CudaIpcHandle {
  char bytes[64];
};

struct CudaUuid {
  char bytes[16];
};

// Where a function of that name is.
using CudaLookup = std::function<void*(const char* name)>;

// One function of the driver.
template <class... Args>
class CudaCall {
 public:
  using Pointer = CudaResult (*)(Args...);

  CudaCall(const CudaLookup& find, const char* name)
      : name_(name), call_(reinterpret_cast<Pointer>(find(name))) {}

  CudaResult operator()(Args... args) const { return call_(args...); }
  [[nodiscard]] const char* name() const { return name_; }

 private:
  const char* name_;
  Pointer call_;
};

// Everything Quoit calls, named as in CUDA without the prefix.
struct CudaCalls {
  explicit CudaCalls(CudaLookup lookup) : find(std::move(lookup)) {}

  CudaLookup find;

  CudaCall<CudaResult, const char**> get_error_name{find, "cuGetErrorName"};
  CudaCall<CudaResult, const char**> get_error_string{find, "cuGetErrorString"};
  CudaCall<unsigned> init{find, "cuInit"};
  CudaCall<int*, int> device_get{find, "cuDeviceGet"};
  CudaCall<int*> device_get_count{find, "cuDeviceGetCount"};
  CudaCall<CudaUuid*, int> device_get_uuid{find, "cuDeviceGetUuid_v2"};
  CudaCall<int*, int, int> device_can_access_peer{find, "cuDeviceCanAccessPeer"};
  CudaCall<CudaContext*, int> device_primary_ctx_retain{find, "cuDevicePrimaryCtxRetain"};
  CudaCall<CudaContext> ctx_push_current{find, "cuCtxPushCurrent_v2"};
  CudaCall<CudaContext*> ctx_pop_current{find, "cuCtxPopCurrent_v2"};
  CudaCall<int*> ctx_get_device{find, "cuCtxGetDevice"};
  CudaCall<void*, int, CudaAddress> pointer_get_attribute{find, "cuPointerGetAttribute"};
  CudaCall<int*, int*> ctx_get_stream_priority_range{find, "cuCtxGetStreamPriorityRange"};
  CudaCall<CudaAddress*, std::size_t> mem_alloc{find, "cuMemAlloc_v2"};
  CudaCall<CudaAddress> mem_free{find, "cuMemFree_v2"};
  CudaCall<CudaIpcHandle*, CudaAddress> ipc_get_mem_handle{find, "cuIpcGetMemHandle"};
  CudaCall<CudaAddress*, CudaIpcHandle, unsigned> ipc_open_mem_handle{find,
                                                                      "cuIpcOpenMemHandle_v2"};
  CudaCall<CudaAddress> ipc_close_mem_handle{find, "cuIpcCloseMemHandle"};
  CudaCall<CudaIpcHandle*, CudaEvent> ipc_get_event_handle{find, "cuIpcGetEventHandle"};
  CudaCall<CudaEvent*, CudaIpcHandle> ipc_open_event_handle{find, "cuIpcOpenEventHandle"};
  CudaCall<void**, std::size_t, unsigned> mem_host_alloc{find, "cuMemHostAlloc"};
  CudaCall<void*> mem_free_host{find, "cuMemFreeHost"};
  CudaCall<CudaAddress, CudaAddress, std::size_t, CudaStream> memcpy_async{find, "cuMemcpyAsync"};
  CudaCall<CudaStream*, unsigned> stream_create{find, "cuStreamCreate"};
  CudaCall<CudaStream*, unsigned, int> stream_create_with_priority{find,
                                                                   "cuStreamCreateWithPriority"};
  CudaCall<CudaStream, CudaEvent, unsigned> stream_wait_event{find, "cuStreamWaitEvent"};
  CudaCall<CudaStream, int*> stream_is_capturing{find, "cuStreamIsCapturing"};
  CudaCall<int*> thread_exchange_stream_capture_mode{find, "cuThreadExchangeStreamCaptureMode"};
  CudaCall<CudaEvent*, unsigned> event_create{find, "cuEventCreate"};
  CudaCall<CudaEvent, CudaStream> event_record{find, "cuEventRecord"};
  CudaCall<CudaEvent> event_query{find, "cuEventQuery"};
  CudaCall<CudaEvent> event_destroy{find, "cuEventDestroy_v2"};
};

}  // namespace quoit
