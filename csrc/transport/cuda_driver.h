#pragma once
// libcuda, CUDA's driver, loaded at run time.
#include <string>
#include <utility>

#include "core/error.h"
#include "transport/cuda_abi.h"

namespace quoit {

class CudaDriver {
 public:
  // The one of this process, loaded at the first call: what QUOIT_CUDA_DRIVER names, or what the
  // linker finds. Throws UnavailableError where there is none, or no device.
  static const CudaDriver& load();

  explicit CudaDriver(CudaLookup find) : calls(std::move(find)) {}

  // Calls one function and throws TransportError with CUDA's own words when it fails.
  template <class... Params, class... Args>
  void must(const CudaCall<Params...>& call, Args... args) const {
    check(call.name(), call(args...));
  }
  void check(const char* function, CudaResult result) const;

  // Name and description of a result.
  [[nodiscard]] std::string words(CudaResult result) const;

  const CudaCalls calls;
};

}  // namespace quoit
