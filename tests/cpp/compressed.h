#pragma once
// What tests of compressed collectives share: worlds, codecs, buffers, and noise to fill them with.
#include <cmath>
#include <cstring>

#include "kernels/mix.h"
#include "world.h"

namespace quoit::test {

inline const std::vector<std::string> kCodecs{"raw",
                                              "bf16",
                                              "bf16(stochastic)",
                                              "fp8",
                                              "int8",
                                              "int4",
                                              "int4(hadamard)",
                                              "sign",
                                              "topk(ratio=0.01, bits=8)",
                                              "topk(ratio=0.1, bits=4)"};

struct World {
  int ranks;
  int hosts;
  std::string transport = "auto";
};

inline std::shared_ptr<const Compression> compression(std::vector<Part> parts) {
  return std::make_shared<const Compression>(std::move(parts));
}

// Nearly normal, of mean 0.1: quick to make.
inline std::vector<float> noise(std::size_t count, int rank, int step) {
  const std::uint64_t key = mix_64(static_cast<std::uint64_t>(1000 * step + rank));
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t bits = mix_64(key + i * 0x9e3779b97f4a7c15);
    const auto four =
        (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    values[i] = 0.1F + (static_cast<float>(four) * 0x1p-16F - 2.0F) * 1.732F;
  }
  return values;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// The results of all ranks, for the main thread to compare.
class Gathered {
 public:
  explicit Gathered(int ranks, std::size_t count = 0) : of(static_cast<std::size_t>(ranks)) {
    for (auto& one : of) one.resize(count);
  }
  std::vector<float>& operator[](const Communicator& c) {
    return of[static_cast<std::size_t>(c.rank())];
  }
  void expect_alike(const std::string& what) const {
    for (const auto& one : of) EXPECT(same_bits(one, of[0]), what, ": replicas differ");
  }
  std::vector<std::vector<float>> of;
};

}  // namespace quoit::test
