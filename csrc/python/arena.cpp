#include "python/arena.h"

namespace py = pybind11;

namespace quoit {

void bind_arena(py::module_& m) {
  py::class_<PyMemory>(m, "Memory", py::buffer_protocol(), "Bytes that ranks of this host share.")
      .def_buffer([](PyMemory& self) {
        return py::buffer_info(reinterpret_cast<std::uint8_t*>(self.data.get()),
                               static_cast<py::ssize_t>(self.bytes));
      });
}

}  // namespace quoit
