#pragma once
// The nouns every layer shares: element types, reductions, and views of memory that own nothing.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"

namespace quoit {

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

std::size_t size_of(DType dtype);
std::string_view name_of(DType dtype);
std::string_view name_of(ReduceOp op);

// What an all_reduce, reduce or reduce_scatter computes. `factor` multiplies every input before the
// sum and is read by PremulSum only.
struct Reduction {
  ReduceOp op = ReduceOp::Sum;
  double factor = 1.0;
};

// A range of elements of a View.
struct Slice {
  std::size_t begin = 0;
  std::size_t count = 0;

  // The i-th of `parts` nearly equal pieces: sizes differ by at most one, larger ones come first.
  [[nodiscard]] Slice piece(std::size_t parts, std::size_t i) const {
    const std::size_t base = count / parts;
    const std::size_t extra = count % parts;
    return {begin + i * base + std::min(i, extra), base + (i < extra ? 1 : 0)};
  }
};

// `count` elements of one type in memory that somebody else owns.
struct View {
  std::byte* data = nullptr;
  std::size_t count = 0;
  DType dtype = DType::UInt8;

  [[nodiscard]] std::size_t bytes() const { return count * size_of(dtype); }
  [[nodiscard]] Bytes raw() const { return {data, bytes()}; }
  [[nodiscard]] View at(Slice s) const { return {data + s.begin * size_of(dtype), s.count, dtype}; }
};

inline std::size_t count_of(const std::vector<View>& views) {
  std::size_t count = 0;
  for (const View& view : views) count += view.count;
  return count;
}

inline std::size_t bytes_of(const std::vector<View>& views) {
  std::size_t bytes = 0;
  for (const View& view : views) bytes += view.bytes();
  return bytes;
}

inline std::size_t ceil_div(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

inline constexpr std::size_t kCacheLine = 64;  // bytes

}  // namespace quoit
