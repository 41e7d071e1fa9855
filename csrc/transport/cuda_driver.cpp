#include "transport/cuda_driver.h"

#include <dlfcn.h>

#include <memory>

#include "core/env.h"
#include "core/log.h"

namespace quoit {
namespace {

std::unique_ptr<CudaDriver> open_driver() {
  const std::string path = env::read("QUOIT_CUDA_DRIVER").value_or("libcuda.so.1");
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  // NOLINTNEXTLINE(concurrency-mt-unsafe): each thread has its own
  const char* const why = handle == nullptr ? dlerror() : "";
  QUOIT_CHECK(
      handle != nullptr, UnavailableError,
      "an array of a CUDA device, but no CUDA driver can be loaded (", why,
      "): install NVIDIA's driver, or set QUOIT_CUDA_DRIVER to the path of its libcuda.so.1");
  auto driver = std::make_unique<CudaDriver>([handle, path](const char* name) {
    void* const symbol = dlsym(handle, name);
    QUOIT_CHECK(symbol != nullptr, UnavailableError, "the CUDA driver ", path, " lacks ", name,
                ": one for CUDA 10.1 or later is needed; install a newer one");
    return symbol;
  });
  const CudaResult result = driver->calls.init(0);
  QUOIT_CHECK(result == CudaResult::Success, UnavailableError, "the CUDA driver ", path,
              " cannot be used: ", driver->words(result),
              ". `nvidia-smi` shows what it sees, and CUDA_VISIBLE_DEVICES may hide devices");
  if (log::debug()) log::write(text("CUDA driver from ", path));
  return driver;
}

}  // namespace

const CudaDriver& CudaDriver::load() {
  // Never destroyed: what is on a device may outlive all static objects.
  static const CudaDriver* const driver = open_driver().release();
  return *driver;
}

void CudaDriver::check(const char* function, CudaResult result) const {
  QUOIT_CHECK(
      result == CudaResult::Success, TransportError, "CUDA: ", function, " failed: ", words(result),
      ". A kernel of the program that went wrong shows here, too: CUDA_LAUNCH_BLOCKING=1 or "
      "compute-sanitizer finds it");
}

std::string CudaDriver::words(CudaResult result) const {
  const char* name = nullptr;
  const char* description = nullptr;
  calls.get_error_name(result, &name);
  calls.get_error_string(result, &description);
  if (name == nullptr || description == nullptr) return text("error ", static_cast<int>(result));
  return text(name, " (", description, ")");
}

}  // namespace quoit
