#pragma once
// What reduce.cpp asks of the translation units that are built once per instruction set.
#include <cstddef>

#include "core/dtype.h"

namespace quoit {

// The arguments of one reduction, as documented at reduce(). `inputs` and `divide_by` are at
// least 1.
struct KernelCall {
  const std::byte* const* in;
  std::size_t inputs;
  std::byte* out;
  std::byte* also;
  std::size_t count;
  double factor;
  std::uint64_t divide_by;
};

using Kernel = void (*)(const KernelCall&);

// Null where an operation has no meaning for a type.
struct KernelTable {
  Kernel at[kDTypes][kReduceOps];
};

// Null when not built for this architecture. The x86 tables may be used only where the CPU agrees.
const KernelTable* baseline_kernels();
const KernelTable* x86_v3_kernels();
const KernelTable* x86_v4_kernels();

// Whether CPU and operating system support all that x86-64-v3 or -v4 ask for.
bool cpu_has_x86_v3();
bool cpu_has_x86_v4();

}  // namespace quoit
