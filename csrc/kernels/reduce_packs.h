#pragma once
// What a thread does in a reduction: the twin of reduce_loops.h. Include device_cuda.h (or the
// tests' device_plain.h) first.
#include "kernels/reduce_table.h"
#include "kernels/row_memory.h"

namespace quoit {
namespace {

using HalfPart = Narrow<widen_half, narrow_half>;

// kCount elements from `at` on, of all inputs in order.
template <class Format, unsigned kCount, class Op>
QUOIT_DEVICE void reduce_pack(const Op& op, const cuda::ReduceArgs& args, std::size_t at) {
  using Stored = typename Format::Stored;
  using Memory = Pack<Stored, kCount>;
  const std::size_t offset = at * sizeof(Stored);
  const auto load = [&](unsigned k) {
    return *reinterpret_cast<const Memory*>(args.in[k] + offset);
  };
  const Memory first = load(0);
  typename Format::Value total[kCount];
  QUOIT_UNROLL
  for (unsigned i = 0; i < kCount; ++i) total[i] = Format::load(op, first.at[i]);
  for (unsigned k = 1; k < args.inputs; ++k) {
    const Memory next = load(k);
    QUOIT_UNROLL
    for (unsigned i = 0; i < kCount; ++i)
      total[i] = Format::combine(op, total[i], Format::load(op, next.at[i]));
  }
  Memory result;
  QUOIT_UNROLL
  for (unsigned i = 0; i < kCount; ++i) result.at[i] = Format::store(op, total[i]);
  *reinterpret_cast<Memory*>(args.out + offset) = result;
  if (args.also) *reinterpret_cast<Memory*>(args.also + offset) = result;
}

// What the thread has to do, one of `threads`: neighbours take neighbours.
template <class Format, class Op>
QUOIT_DEVICE void reduce_part(const Op& op, const cuda::ReduceArgs& args, std::size_t thread,
                              std::size_t threads) {
  constexpr unsigned kCount = 16 / sizeof(typename Format::Stored);
  for (std::size_t i = thread; i < args.packs; i += threads)
    reduce_pack<Format, kCount>(op, args, args.head + i * kCount);
  const std::size_t packed = args.packs * kCount;
  for (std::size_t i = thread; i < args.count - packed; i += threads)
    reduce_pack<Format, 1>(op, args, i < args.head ? i : i + packed);
}

}  // namespace
}  // namespace quoit
