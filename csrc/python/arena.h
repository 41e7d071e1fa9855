#pragma once
#include <pybind11/pybind11.h>

#include <memory>

namespace quoit {

// Memory of an arena, for Python: has the buffer protocol.
struct PyMemory {
  std::shared_ptr<std::byte> data;
  std::size_t bytes;
};

void bind_arena(pybind11::module_& m);

}  // namespace quoit
