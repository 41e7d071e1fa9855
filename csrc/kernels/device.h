#pragma once
// What marks code that CUDA devices run, too. For a compiler other than nvcc it is plain C++, which
// is how the tests run it.

#ifdef __CUDACC__
#define QUOIT_HOST_DEVICE __host__ __device__
#define QUOIT_DEVICE __device__
#define QUOIT_UNROLL _Pragma("unroll")
#define QUOIT_ROLLED _Pragma("unroll 1")
#else
#define QUOIT_HOST_DEVICE
#define QUOIT_DEVICE
#define QUOIT_UNROLL
#define QUOIT_ROLLED
#endif

namespace quoit {
inline constexpr unsigned kTeam = 256;  // threads of a Team (device_cuda.h)
}
