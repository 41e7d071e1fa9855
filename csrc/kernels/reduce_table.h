#pragma once
// Which kernel serves which dtype and operation of reduce(), on the CPU and on CUDA devices. Make
// has kernel<Format, Op>, which goes into the table's at[dtype][op]. Internal linkage: see
// reduce_loops.h.
#include "kernels/reduce_formats.h"
#include "kernels/reduce_ops.h"

namespace quoit {
namespace {

template <class Table>
constexpr auto& entry(Table& table, DType dtype, ReduceOp op) {
  return table.at[static_cast<std::size_t>(dtype)][static_cast<std::size_t>(op)];
}

template <class Make, class Format, class Table>
constexpr void add_real(Table& table, DType dtype) {
  entry(table, dtype, ReduceOp::Sum) = Make::template kernel<Format, Sum>;
  entry(table, dtype, ReduceOp::Avg) = Make::template kernel<Format, Average>;
  entry(table, dtype, ReduceOp::Product) = Make::template kernel<Format, Product>;
  entry(table, dtype, ReduceOp::Min) = Make::template kernel<Format, Min>;
  entry(table, dtype, ReduceOp::Max) = Make::template kernel<Format, Max>;
  entry(table, dtype, ReduceOp::PremulSum) = Make::template kernel<Format, PremulSum>;
}

// Where the sign makes no difference to the bits, both signs share a kernel.
template <class Make, class T, class Table>
constexpr void add_integer(Table& table, DType dtype) {
  using Signless = Integer<std::make_unsigned_t<T>>;
  entry(table, dtype, ReduceOp::Sum) = Make::template kernel<Signless, Sum>;
  entry(table, dtype, ReduceOp::Avg) = Make::template kernel<Integer<T>, IntegerAverage>;
  entry(table, dtype, ReduceOp::Product) = Make::template kernel<Signless, Product>;
  entry(table, dtype, ReduceOp::Min) = Make::template kernel<Integer<T>, Min>;
  entry(table, dtype, ReduceOp::Max) = Make::template kernel<Integer<T>, Max>;
  entry(table, dtype, ReduceOp::Band) = Make::template kernel<Signless, BitAnd>;
  entry(table, dtype, ReduceOp::Bor) = Make::template kernel<Signless, BitOr>;
  entry(table, dtype, ReduceOp::Bxor) = Make::template kernel<Signless, BitXor>;
}

template <class Make, class Half, class Brain, class Table>
constexpr void add_reals(Table& table) {
  add_real<Make, Real<double>>(table, DType::Float64);
  add_real<Make, Real<float>>(table, DType::Float32);
  add_real<Make, Half>(table, DType::Float16);
  add_real<Make, Brain>(table, DType::BFloat16);
}

template <class Make, class Table>
constexpr void add_narrow_integers(Table& table) {
  add_integer<Make, std::int8_t>(table, DType::Int8);
  add_integer<Make, std::int16_t>(table, DType::Int16);
  add_integer<Make, std::uint8_t>(table, DType::UInt8);
  add_integer<Make, std::uint16_t>(table, DType::UInt16);
  entry(table, DType::Bool, ReduceOp::Sum) = Make::template kernel<Boolean, BitOr>;
  entry(table, DType::Bool, ReduceOp::Product) = Make::template kernel<Boolean, BitAnd>;
  entry(table, DType::Bool, ReduceOp::Min) = Make::template kernel<Boolean, BitAnd>;
  entry(table, DType::Bool, ReduceOp::Max) = Make::template kernel<Boolean, BitOr>;
  entry(table, DType::Bool, ReduceOp::Band) = Make::template kernel<Boolean, BitAnd>;
  entry(table, DType::Bool, ReduceOp::Bor) = Make::template kernel<Boolean, BitOr>;
  entry(table, DType::Bool, ReduceOp::Bxor) = Make::template kernel<Boolean, BitXor>;
}

template <class Make, class Table>
constexpr void add_wide_integers(Table& table) {
  add_integer<Make, std::int32_t>(table, DType::Int32);
  add_integer<Make, std::int64_t>(table, DType::Int64);
  add_integer<Make, std::uint32_t>(table, DType::UInt32);
  add_integer<Make, std::uint64_t>(table, DType::UInt64);
}

}  // namespace
}  // namespace quoit
