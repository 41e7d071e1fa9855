#pragma once
// The loops of reduce(), written once and compiled once per instruction set: plain loops that the
// compiler vectorises. Everything here has internal linkage, and no inline function of a library is
// called: of such weak symbols the linker keeps one copy, which may be the one that this CPU lacks
// the instructions for. Include half_plain.h or half_f16c.h first.
#include "core/copy.h"
#include "kernels/kernel_table.h"
#include "kernels/reduce_formats.h"
#include "kernels/reduce_ops.h"
#include "kernels/reduce_table.h"

// The destination may be one of the inputs, element upon element, which a compiler must otherwise
// take for a dependency between iterations.
#ifdef __clang__
#pragma clang diagnostic ignored "-Wpass-failed"  // 64-bit integer division stays scalar
#define QUOIT_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define QUOIT_INDEPENDENT _Pragma("GCC ivdep")
#endif

// Keeps compilers from fusing a loop with the one over the inputs, which then is not vectorised.
#define QUOIT_LOOP __attribute__((noinline)) void

namespace quoit {
namespace {

// ---- Memory.

// What the caller passed: at any address, of any type.
template <class Format>
struct __attribute__((packed, may_alias)) Group {
  typename Format::Stored stored;
};

// So many at once that partial results stay in the L1 cache: memory is read once, however many
// inputs there are.
template <class Format>
inline constexpr std::size_t kGroupsPerBlock = 4096 / sizeof(typename Format::Value);

// A block accumulated so far: neither rounded nor divided.
template <class Format>
struct Partials {
  using Value = typename Format::Value;
  alignas(64) Value values[kGroupsPerBlock<Format>];
  Value get(std::size_t i) const { return values[i]; }
  void put(std::size_t i, Value value) { values[i] = value; }
};

template <class Element>
struct Partials<Pair<Element>> {
  alignas(64) float firsts[kGroupsPerBlock<Pair<Element>>];
  alignas(64) float seconds[kGroupsPerBlock<Pair<Element>>];
  Two get(std::size_t i) const { return {firsts[i], seconds[i]}; }
  void put(std::size_t i, Two value) {
    firsts[i] = value.first;
    seconds[i] = value.second;
  }
};

// ---- Loops. Input and output are accessed in the loops themselves, not through functions: clang
// may forget QUOIT_INDEPENDENT for accesses that it inlines.

template <class F, class Op>
QUOIT_LOOP reduce_one(Op op, const Group<F>* in, Group<F>* out, std::size_t count) {
  QUOIT_INDEPENDENT
  for (std::size_t i = 0; i < count; ++i) {
    out[i].stored = F::store(op, F::load(op, in[i].stored));
  }
}

template <class F, class Op>
QUOIT_LOOP reduce_two(Op op, const Group<F>* a, const Group<F>* b, Group<F>* out,
                      std::size_t count) {
  QUOIT_INDEPENDENT
  for (std::size_t i = 0; i < count; ++i) {
    const auto value = F::combine(op, F::load(op, a[i].stored), F::load(op, b[i].stored));
    out[i].stored = F::store(op, value);
  }
}

template <class F, class Op>
QUOIT_LOOP begin_block(Op op, const Group<F>* a, const Group<F>* b, Partials<F>& partials,
                       std::size_t count) {
  QUOIT_INDEPENDENT
  for (std::size_t i = 0; i < count; ++i) {
    partials.put(i, F::combine(op, F::load(op, a[i].stored), F::load(op, b[i].stored)));
  }
}

template <class F, class Op>
QUOIT_LOOP continue_block(Op op, const Group<F>* in, Partials<F>& partials, std::size_t count) {
  QUOIT_INDEPENDENT
  for (std::size_t i = 0; i < count; ++i) {
    partials.put(i, F::combine(op, partials.get(i), F::load(op, in[i].stored)));
  }
}

template <class F, class Op>
QUOIT_LOOP end_block(Op op, const Partials<F>& partials, const Group<F>* in, Group<F>* out,
                     std::size_t count) {
  QUOIT_INDEPENDENT
  for (std::size_t i = 0; i < count; ++i) {
    out[i].stored = F::store(op, F::combine(op, partials.get(i), F::load(op, in[i].stored)));
  }
}

// ---- From loops to kernels.

// `count` groups from `offset` bytes on; of more than two inputs, at most a block.
template <class Format, class Op>
void reduce_block(const KernelCall& call, Op op, std::size_t offset, std::size_t count) {
  const auto in = [&](std::size_t k) {
    return reinterpret_cast<const Group<Format>*>(call.in[k] + offset);
  };
  Group<Format>* const out = reinterpret_cast<Group<Format>*>(call.out + offset);
  if (call.inputs == 1) {
    reduce_one<Format>(op, in(0), out, count);
  } else if (call.inputs == 2) {
    reduce_two<Format>(op, in(0), in(1), out, count);
  } else {
    Partials<Format> partials;
    const std::size_t last = call.inputs - 1;
    begin_block<Format>(op, in(0), in(1), partials, count);
    for (std::size_t k = 2; k < last; ++k) continue_block<Format>(op, in(k), partials, count);
    end_block<Format>(op, partials, in(last), out, count);
  }
}

// `count` groups from `offset` bytes on.
template <class Format, class Op>
void reduce_blocks(const KernelCall& call, Op op, std::size_t offset, std::size_t count) {
  constexpr std::size_t kBytes = sizeof(typename Format::Stored);
  const bool one_block = call.inputs <= 2 && call.also == nullptr;
  const std::size_t block = one_block ? count : kGroupsPerBlock<Format>;
  while (count > 0) {
    const std::size_t now = count < block ? count : block;
    reduce_block<Format>(call, op, offset, now);
    if (call.also) copy_bytes(call.out + offset, call.also + offset, now * kBytes);
    offset += now * kBytes;
    count -= now;
  }
}

template <class Format, template <class> class Op_>
void reduce_all(const KernelCall& call) {
  const Op_<typename Format::Lane> op(call);
  const std::size_t groups = call.count / Format::kGroup;
  reduce_blocks<Format>(call, op, 0, groups);
  if constexpr (Format::kGroup > 1) {
    reduce_blocks<typename Format::Rest>(call, op, groups * sizeof(typename Format::Stored),
                                         call.count % Format::kGroup);
  }
}

// ---- The table.

struct Loops {
  template <class Format, template <class> class Op>
  static constexpr Kernel kernel = reduce_all<Format, Op>;
};

constexpr KernelTable make_table() {
  KernelTable table{};
  add_reals<Loops, Half, Pair<BrainFloat>>(table);
  add_narrow_integers<Loops>(table);
  add_wide_integers<Loops>(table);
  return table;
}

constexpr KernelTable kKernels = make_table();

}  // namespace
}  // namespace quoit
