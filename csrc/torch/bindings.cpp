// quoit._c10d: the one module built against torch. quoit/backend.py registers what it makes.
#include <torch/python.h>

#include "torch/process_group.h"

PYBIND11_MODULE(_c10d, m) {
  m.doc() = "Quoit as a torch.distributed backend. Use it through the package `quoit`.";
  m.def(
      "create",
      [](const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, double timeout,
         const std::string& mpi_library, int mpi_size,
         const std::vector<std::int64_t>& members) -> c10::intrusive_ptr<c10d::Backend> {
        try {
          quoit::ConnectOptions options = quoit::ConnectOptions::from_environment();
          options.timeout = quoit::Seconds(timeout);
          options.mpi_library = mpi_library;
          options.mpi_size = mpi_size;
          return c10::make_intrusive<quoit::ProcessGroupQuoit>(store, rank, size, members, options);
        } catch (const quoit::Error&) {
          std::rethrow_exception(quoit::as_torch_error(std::current_exception()));
        }
      },
      py::arg("store"), py::arg("rank"), py::arg("size"), py::arg("timeout"),
      py::arg("mpi_library") = "", py::arg("mpi_size") = 0,
      py::arg("members") = std::vector<std::int64_t>{}, py::call_guard<py::gil_scoped_release>(),
      "Makes the backend of one group; collective over its members. `timeout` in seconds; "
      "`members` are the group's ranks in the job, empty for all of them.");
}
