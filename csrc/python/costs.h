#pragma once
#include <pybind11/pybind11.h>

namespace quoit {

// The cost model: for `quoit tune` and `quoit plan`.
void bind_costs(pybind11::module_& m);

}  // namespace quoit
