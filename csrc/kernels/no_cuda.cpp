// In place of the .cu files where CUDA is not built.
#include "kernels/cuda.h"

namespace quoit::cuda {

const KernelSet& built_kernels() {
  throw UnavailableError(
      "kernels for CUDA asked for, but this build of quoit has none: install it where nvcc is on "
      "PATH, with `pip install --config-settings=cmake.define.QUOIT_CUDA=ON`");
}

std::string built() { return ""; }

std::string unfit(int) { return status().problem; }

Status status() { return {{}, "this build of quoit has no kernels for CUDA"}; }

}  // namespace quoit::cuda
