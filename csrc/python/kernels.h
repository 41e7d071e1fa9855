#pragma once
// The kernels, for benchmarks of them alone.
#include <pybind11/pybind11.h>

namespace quoit {

void bind_kernels(pybind11::module_& m);

}  // namespace quoit
