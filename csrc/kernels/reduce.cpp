#include "kernels/reduce.h"

#include <algorithm>
#include <array>
#include <string>

#include "kernels/kernel_table.h"

namespace quoit {
namespace {

constexpr std::array<Isa, 3> kIsas{Isa::Baseline, Isa::X86V3, Isa::X86V4};

// Bytes of an input below which AVX-512 is not worth it: it begins slowly, by about a microsecond,
// on a core that has not used it for some microseconds.
constexpr std::size_t kBrief = 64 * 1024;

// The kernels of an instruction set; null when this build or CPU lacks it. Asked once: CPUID is
// slow, tens of microseconds in a virtual machine.
const KernelTable* find_kernels(Isa isa) {
  static const std::array<const KernelTable*, kIsas.size()> found{
      baseline_kernels(),
      cpu_has_x86_v3() ? x86_v3_kernels() : nullptr,
      cpu_has_x86_v4() ? x86_v4_kernels() : nullptr,
  };
  const auto index = static_cast<std::size_t>(isa);
  return index < found.size() ? found[index] : nullptr;
}

Kernel kernel_of(const KernelTable& kernels, DType dtype, ReduceOp op) {
  const auto row = static_cast<std::size_t>(dtype);
  const auto column = static_cast<std::size_t>(op);
  QUOIT_CHECK(row < kDTypes && column < kReduceOps, UsageError, "no reduction has dtype number ",
              row, " and operation number ", column, ": there are ", kDTypes, " dtypes and ",
              kReduceOps, " operations");
  return kernels.at[row][column];
}

// "SUM, PRODUCT or MAX"; empty when `dtype` cannot be reduced.
std::string supported_ops(DType dtype) {
  std::string listed;
  for (int i = kReduceOps - 1; i >= 0; --i) {
    const auto op = static_cast<ReduceOp>(i);
    if (kernel_of(*baseline_kernels(), dtype, op) == nullptr) continue;
    const bool last = listed.empty();
    const bool next_to_last = !last && listed.find(' ') == std::string::npos;
    listed = std::string(name_of(op)) + (last ? "" : next_to_last ? " or " : ", ") + listed;
  }
  return listed;
}

void run(const KernelTable& kernels, DType dtype, const ReduceStep& step,
         std::span<const std::byte* const> in, std::byte* out, std::byte* also, std::size_t count) {
  QUOIT_CHECK(!in.empty(), UsageError, name_of(step.op), " of no inputs: give at least one");
  QUOIT_CHECK(step.divide_by > 0, UsageError, name_of(step.op), " cannot divide by 0");
  Kernel kernel = kernel_of(kernels, dtype, step.op);
  if (kernel == nullptr) [[unlikely]]
    check_reducible(dtype, step.op);
  if (step.op == ReduceOp::Avg && step.divide_by == 1) {
    kernel = kernel_of(kernels, dtype, ReduceOp::Sum);
  }
  kernel({in.data(), in.size(), out, also, count, step.factor, step.divide_by});
}

}  // namespace

void check_reducible(DType dtype, ReduceOp op) {
  if (kernel_of(*baseline_kernels(), dtype, op) != nullptr) return;
  const std::string ops = supported_ops(dtype);
  QUOIT_CHECK(!ops.empty(), UsageError, name_of(op), " of ", name_of(dtype), ": ", name_of(dtype),
              " is moved but never reduced; convert it to float16, bfloat16 or float32 first");
  throw UsageError(text(name_of(op), " of ", name_of(dtype), " has no meaning; ", name_of(dtype),
                        " supports ", ops));
}

void reduce(DType dtype, const ReduceStep& step, std::span<const std::byte* const> in,
            std::byte* out, std::byte* also, std::size_t count) {
  static const KernelTable& widest = *find_kernels(isa_in_use());
  static const KernelTable& brief = *find_kernels(std::min(isa_in_use(), Isa::X86V3));
  run(count * size_of(dtype) < kBrief ? brief : widest, dtype, step, in, out, also, count);
}

bool isa_available(Isa isa) { return find_kernels(isa) != nullptr; }

Isa isa_in_use() {
  Isa best = Isa::Baseline;
  for (const Isa isa : kIsas) {
    if (isa_available(isa)) best = isa;
  }
  return best;
}

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::Baseline:
      return "baseline";
    case Isa::X86V3:
      return "x86-64-v3";
    case Isa::X86V4:
      return "x86-64-v4";
  }
  return "unknown";
}

void reduce_on(Isa isa, DType dtype, const ReduceStep& step, std::span<const std::byte* const> in,
               std::byte* out, std::byte* also, std::size_t count) {
  const KernelTable* const kernels = find_kernels(isa);
  QUOIT_CHECK(kernels != nullptr, UnavailableError, "reductions for ", name_of(isa),
              " asked for, but this build or CPU has none: the best one here is ",
              name_of(isa_in_use()));
  run(*kernels, dtype, step, in, out, also, count);
}

}  // namespace quoit
