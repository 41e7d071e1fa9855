// The devices of this machine, and the kernels of this build. QUOIT_CUDA_ARCHITECTURES comes from
// CMake.
#include <cuda_runtime_api.h>

#include "kernels/cuda.h"

namespace quoit::cuda {
namespace {

void check_launch(const char* what) {
  const cudaError_t failure = cudaGetLastError();
  QUOIT_CHECK(
      failure == cudaSuccess, UnavailableError, "CUDA: ", what,
      " could not be launched: ", cudaGetErrorString(failure),
      "; `quoit doctor` tells which devices there are, and what this build has kernels for");
}

unsigned count_processors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  check_launch("a question for its size");
  return static_cast<unsigned>(count);
}

KernelSet make_kernels() {
  KernelSet set{};
  set.tiles[static_cast<int>(Format::Raw)] = raw_launches();
  set.tiles[static_cast<int>(Format::Bf16)] = bf16_launches();
  set.tiles[static_cast<int>(Format::Bf16Stochastic)] = bf16_stochastic_launches();
  set.tiles[static_cast<int>(Format::Fp8)] = fp8_launches();
  set.tiles[static_cast<int>(Format::Int8)] = int8_launches();
  set.tiles[static_cast<int>(Format::Int4)] = int4_launches();
  set.tiles[static_cast<int>(Format::Int4Hadamard)] = int4_hadamard_launches();
  set.tiles[static_cast<int>(Format::Sign)] = sign_launches();
  set.tiles[static_cast<int>(Format::SignVote)] = sign_vote_launches();
  set.tiles[static_cast<int>(Format::TopK)] = topk_launches();
  set.settle = launch_settle;
  set.low_rank = low_rank_launches();
  add_real_reductions(set.reduce);
  add_narrow_reductions(set.reduce);
  add_wide_reductions(set.reduce);
  set.casts = cast_launches();
  set.copy = launch_copy;
  set.processors = count_processors;
  set.check = check_launch;
  return set;
}

}  // namespace

const KernelSet& built_kernels() {
  static const KernelSet set = make_kernels();
  return set;
}

std::string built() {
  return text("CUDA ", CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10, ": ",
              QUOIT_CUDA_ARCHITECTURES);
}

std::string unfit(int device) {
  constexpr int kOldest = 8;  // sm_80: see cmake/cuda.cmake
  int major = 0;
  const cudaError_t failure =
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (failure != cudaSuccess) {
    cudaGetLastError();  // or the next launch would be told
    return cudaGetErrorString(failure);
  }
  if (major >= kOldest) return {};
  return text("the device is of compute capability ", major, ".x, and quoit's kernels are for ",
              kOldest, ".0 and later");
}

Status status() {
  Status found;
  int count = 0;
  const cudaError_t failure = cudaGetDeviceCount(&count);
  if (failure != cudaSuccess) {
    found.problem = cudaGetErrorString(failure);
    cudaGetLastError();  // or the next launch would be told
    return found;
  }
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, device) == cudaSuccess)
      found.devices.emplace_back(
          text(properties.name, " (sm_", properties.major, properties.minor, ")"));
  }
  return found;
}

}  // namespace quoit::cuda
