#pragma once
// Hashes of counters: random bits that depend on nothing but what they are for.
#include <cstdint>

#include "kernels/cast.h"

namespace quoit {

// 64 bits, each depending on all of x: the finaliser of SplitMix64.
QUOIT_HOST_DEVICE static constexpr std::uint64_t mix_64(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// 32 bits, in arithmetic that vectorises: the finaliser of MurmurHash3.
QUOIT_HOST_DEVICE static constexpr std::uint32_t mix_32(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85ebca6b;
  x = (x ^ (x >> 13)) * 0xc2b2ae35;
  return x ^ (x >> 16);
}

// The key of a tile's random rounding: different for every tile, rank and stage of a call, whose
// seed is new each time.
QUOIT_HOST_DEVICE static constexpr std::uint64_t tile_key(std::uint64_t seed, std::uint64_t index,
                                                          std::uint64_t rank, std::uint64_t stage) {
  constexpr std::uint64_t kStep = 0x9e3779b97f4a7c15;  // of SplitMix64
  return mix_64(mix_64(mix_64(seed + index + kStep) + rank + kStep) + stage + kStep);
}

}  // namespace quoit
