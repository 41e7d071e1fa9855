#pragma once
// The CUDA device that the programs of this folder run on.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>

#include "kernels/cuda.h"

namespace quoit::test {

// Ends the program where CUDA fails: there is nothing to compare then.
inline void must(cudaError_t result, const char* what) {
  if (result == cudaSuccess) return;
  std::printf("FAILED: %s: %s\n", what, cudaGetErrorString(result));
  std::exit(1);
}

// Says which device there is; ends the program with 3 where there is none.
inline void need_device() {
  const cuda::Status status = cuda::status();
  if (!status.devices.empty()) {
    std::printf("%s; built with %s\n", status.devices[0].c_str(), cuda::built().c_str());
    return;
  }
  std::printf("no CUDA device, so nothing was tested: %s\n", status.problem.c_str());
  std::exit(3);
}

}  // namespace quoit::test
