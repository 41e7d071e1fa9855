#pragma once
// Element types and reductions, as numbers; types.h has what belongs to them. Apart, for sources of
// CUDA: what they include is compiled once more for each device.
#include <cstdint>

namespace quoit {

// Element types. Complex numbers travel as pairs of their real type; every float8 format is moved
// as bytes and never reduced.
enum class DType : std::uint8_t {
  Float64,
  Float32,
  Float16,
  BFloat16,
  Float8,
  Int8,
  Int16,
  Int32,
  Int64,
  UInt8,
  UInt16,
  UInt32,
  UInt64,
  Bool,
};
inline constexpr int kDTypes = 14;

enum class ReduceOp : std::uint8_t { Sum, Avg, Product, Min, Max, Band, Bor, Bxor, PremulSum };
inline constexpr int kReduceOps = 9;

}  // namespace quoit
