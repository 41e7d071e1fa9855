#pragma once
// Where the cases of cuda_codec_cases.h and cuda_reduce_cases.h run: a Machine is a CUDA device in
// tests/cuda, and stands for one in tests/cpp. And the numbers that they run on.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/cast.h"
#include "kernels/cuda.h"

namespace quoit::test {

inline int failures = 0;

template <class... Parts>
void expect(bool condition, const Parts&... parts) {
  if (!condition && ++failures <= 20) std::printf("FAILED: %s\n", text(parts...).c_str());
}

// Memory of a device, and the kernels that work on it. Copies wait for what was launched.
struct Machine {
  const cuda::KernelSet& kernels;
  void* (*allocate)(std::size_t bytes);
  void (*free)(void* memory);
  void (*copy)(const void* from, void* to, std::size_t bytes);  // either may be the host's
};

// Bytes of a device, `past` behind an address that is a multiple of 256, between guards.
class Memory {
 public:
  Memory(const Machine& machine, const std::vector<std::byte>& bytes, std::size_t past)
      : machine_(machine), size_(bytes.size()), begin_(kGuard + past) {
    std::vector<std::byte> whole(begin_ + size_ + kGuard, kPattern);
    std::copy(bytes.begin(), bytes.end(), whole.begin() + static_cast<std::ptrdiff_t>(begin_));
    memory_ = static_cast<std::byte*>(machine.allocate(whole.size()));
    machine.copy(whole.data(), memory_, whole.size());
  }
  ~Memory() { machine_.free(memory_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  [[nodiscard]] std::byte* data() const { return memory_ + begin_; }
  [[nodiscard]] float* floats() const { return reinterpret_cast<float*>(data()); }

  // Complains if anything was written beside them.
  [[nodiscard]] std::vector<std::byte> bytes(const std::string& what) const {
    std::vector<std::byte> whole(begin_ + size_ + kGuard);
    machine_.copy(memory_, whole.data(), whole.size());
    const auto first = whole.begin() + static_cast<std::ptrdiff_t>(begin_);
    const auto last = first + static_cast<std::ptrdiff_t>(size_);
    const auto guards = [](auto from, auto to) {
      return std::all_of(from, to, [](std::byte b) { return b == kPattern; });
    };
    expect(guards(whole.begin(), first) && guards(last, whole.end()), what, ": wrote outside");
    return {first, last};
  }

 private:
  static constexpr std::size_t kGuard = 256;
  static constexpr std::byte kPattern{0xa5};
  const Machine& machine_;
  std::byte* memory_;
  std::size_t size_;
  std::size_t begin_;
};

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// Equal bits; two float32 may be different NaNs.
inline bool same(const std::vector<std::byte>& a, const std::vector<std::byte>& b, bool floats) {
  if (a.size() != b.size()) return false;
  if (!floats) return a == b;
  for (std::size_t i = 0; i + 4 <= a.size(); i += 4) {
    float x, y;
    std::memcpy(&x, &a[i], 4);
    std::memcpy(&y, &b[i], 4);
    if (std::memcmp(&x, &y, 4) != 0 && !(std::isnan(x) && std::isnan(y))) return false;
  }
  return true;
}

// ---- Numbers.

inline std::mt19937_64 random_bits(2026);

// Edge: about as large as float16 can be, or beyond.
enum class Numbers { Plain, Mixed, AnyBits, Huge, Tiny, Edge };
constexpr std::array kNumbers{Numbers::Plain, Numbers::Mixed, Numbers::AnyBits,
                              Numbers::Huge,  Numbers::Tiny,  Numbers::Edge};

inline float random_number(Numbers kind) {
  const std::uint64_t any = random_bits();
  const float plain = static_cast<float>(static_cast<std::int32_t>(any)) * 0x1p-30F;
  const auto bits = static_cast<std::uint32_t>(any >> 32);
  switch (kind) {
    case Numbers::AnyBits:
      return __builtin_bit_cast(float, bits);
    case Numbers::Huge:
      return plain * 0x1p127F;
    case Numbers::Tiny:
      return plain * 0x1p-120F * (bits % 2 == 0 ? 1 : 0x1p-24F);
    case Numbers::Edge:
      return bits % 4 == 0 ? std::copysign(65504.0F, plain) : plain * 0x1p15F;
    default:
      return bits % 128 == 0 ? plain * 50 : plain;
  }
}

// Mixed: runs of zeros, of either sign, and now and then a number that is none.
inline std::vector<float> random_numbers(std::size_t count, Numbers kind) {
  std::vector<float> numbers(count);
  for (float& x : numbers) x = random_number(kind);
  if (kind != Numbers::Mixed) return numbers;
  constexpr std::array<float, 4> kOdd{HUGE_VALF, -HUGE_VALF, NAN, -0.0F};
  for (std::size_t done = 0; done < count; done += 700)
    numbers[done + random_bits() % std::min<std::size_t>(700, count - done)] =
        kOdd[random_bits() % 4];
  for (std::size_t begin = 256; begin + 600 < count; begin += 3000)
    std::fill_n(&numbers[begin], 600, begin % 2 == 0 ? 0.0F : -0.0F);
  return numbers;
}

inline std::vector<std::byte> as(DType dtype, const std::vector<float>& numbers) {
  if (dtype == DType::Float32) return bytes_of(numbers);
  std::vector<std::uint16_t> narrow;
  for (const float x : numbers)
    narrow.push_back(dtype == DType::BFloat16 ? bf16_from_float(x) : f16_from_float(x));
  return bytes_of(narrow);
}

}  // namespace quoit::test
