#include "torch/device_streams.h"

#include <dlfcn.h>

#include "core/error.h"

namespace quoit {
namespace {

// A symbol of a library that torch has loaded, or null.
template <class Function>
Function* loaded_symbol(const char* name, std::initializer_list<const char*> files) {
  if (void* symbol = dlsym(RTLD_DEFAULT, name)) return reinterpret_cast<Function*>(symbol);
  for (const char* file : files)
    if (void* handle = dlopen(file, RTLD_LAZY | RTLD_NOLOAD))
      if (void* symbol = dlsym(handle, name)) return reinterpret_cast<Function*>(symbol);
  return nullptr;
}

template <class Function>
Function* runtime_symbol(const char* name) {
  return loaded_symbol<Function>(name, {"libcudart.so.13", "libcudart.so.12"});
}

// For torch 2.9: c10::cuda::CUDAStream is a c10::Stream and nothing else, and this its stream().
void* cuda_stream(const c10::Stream& stream) {
  static auto* const get = loaded_symbol<void*(const c10::Stream*)>(
      "_ZNK3c104cuda10CUDAStream6streamEv", {"libc10_cuda.so"});
  QUOIT_CHECK(stream.device_type() == c10::DeviceType::CUDA && get != nullptr, UnavailableError,
              "this torch does not tell the native stream of ", stream.device().str(),
              ": upgrade it (pip install --upgrade torch), or set QUOIT_NCCL=off");
  return get(&stream);
}

template <class Guard>
void* handle_by(const Guard& guard, const c10::Stream& stream) {
  if constexpr (requires { guard.getStreamNativeHandle(stream); })
    return guard.getStreamNativeHandle(stream);
  else
    return cuda_stream(stream);
}

template <class Guard>
bool capturing_by(const Guard& guard, const c10::Stream& stream) {
  if constexpr (requires { guard.isStreamCapturing(stream); }) {
    return guard.isStreamCapturing(stream);
  } else {
    static auto* const ask = runtime_symbol<int(void*, int*)>("cudaStreamIsCapturing");
    int status = 0;
    return stream.device_type() == c10::DeviceType::CUDA && ask != nullptr &&
           ask(cuda_stream(stream), &status) == 0 && status == 1;
  }
}

}  // namespace

void* native_handle(const c10::Stream& stream) {
  return handle_by(c10::impl::VirtualGuardImpl(stream.device_type()), stream);
}

bool is_capturing(const c10::Stream& stream) {
  return capturing_by(c10::impl::VirtualGuardImpl(stream.device_type()), stream);
}

void tolerate_captures() {
  constexpr int kThreadLocal = 1;  // cudaStreamCaptureModeThreadLocal
  int mode = kThreadLocal;
  if (auto* const exchange = runtime_symbol<int(int*)>("cudaThreadExchangeStreamCaptureMode"))
    exchange(&mode);
}

}  // namespace quoit
