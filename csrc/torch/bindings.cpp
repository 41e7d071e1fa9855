// quoit._c10d: the one module built against torch. quoit/backend.py registers what it makes.
#include <torch/python.h>

#include "torch/nccl_group.h"
#include "torch/process_group.h"

namespace quoit {
namespace {

using Group = c10::intrusive_ptr<c10d::Backend>;

ProcessGroupQuoit& ours(const Group& group) {
  auto* const backend = dynamic_cast<ProcessGroupQuoit*>(group.get());
  if (backend == nullptr) throw py::type_error("this backend is not one of quoit's");
  return *backend;
}

// Runs what may throw our errors outside a method of the backend.
template <class Body>
auto as_torch(Body body) {
  try {
    return body();
  } catch (const Error&) {
    std::rethrow_exception(as_torch_error(std::current_exception()));
  }
}

// A function that is called with futures in order.
py::object call_in_order(const py::function& function, const py::args& arguments) {
  const FuturesInOrder in_order;
  return function(*arguments);
}

void bind_compression(py::module_& m) {
  py::class_<CompressionReport, std::shared_ptr<CompressionReport>>(
      m, "CompressionReport", "What compression did, added up over the calls of this rank.")
      .def(py::init<>())
      .def_property_readonly("calls", [](const CompressionReport& r) { return r.calls.load(); })
      .def_property_readonly("plain_bytes",
                             [](const CompressionReport& r) { return r.plain_bytes.load(); })
      .def_property_readonly("sent_bytes",
                             [](const CompressionReport& r) { return r.sent_bytes.load(); })
      .def_property_readonly("codec_seconds", [](const CompressionReport& r) {
        return static_cast<double>(r.codec_nanos.load()) * 1e-9;
      });
  py::class_<PartOfTensor>(m, "Part", "One tensor of a compressed buffer.")
      .def(py::init<std::int64_t, std::string, std::optional<at::Tensor>, std::int64_t,
                    std::int64_t, std::optional<at::Tensor>, std::optional<at::Tensor>,
                    std::optional<at::Tensor>>(),
           py::arg("count"), py::arg("codec"), py::arg("residual") = std::nullopt,
           py::arg("rows") = 0, py::arg("cols") = 0, py::arg("p") = std::nullopt,
           py::arg("q") = std::nullopt, py::arg("turn") = std::nullopt);
  py::class_<TensorCompression, std::shared_ptr<TensorCompression>>(
      m, "Compression", "How the tensors of a buffer are compressed, one after another.")
      .def(py::init([](const std::vector<PartOfTensor>& parts,
                       std::shared_ptr<CompressionReport> report) {
             return as_torch(
                 [&] { return std::make_shared<TensorCompression>(parts, std::move(report)); });
           }),
           py::arg("parts"), py::arg("report"));
  m.def(
      "compressed_all_reduce",
      [](const Group& group, const at::Tensor& tensor, const TensorCompression& compression,
         bool mean, float unit, std::uint64_t seed, std::optional<std::uint64_t> fingerprint,
         bool async_op) -> c10::intrusive_ptr<c10d::Work> {
        return ours(group).compressed_allreduce(tensor, compression,
                                                {mean, unit, seed, fingerprint, async_op});
      },
      py::arg("group"), py::arg("tensor"), py::arg("compression"), py::arg("mean"),
      py::arg("unit") = 1.0F, py::arg("seed") = 0, py::arg("fingerprint") = std::nullopt,
      py::arg("async_op") = false, py::call_guard<py::gil_scoped_release>());
  m.def(
      "compressed_reduce_scatter",
      [](const Group& group, const at::Tensor& input, const at::Tensor& output,
         const TensorCompression& compression, bool mean, float unit, std::uint64_t seed,
         bool async_op) -> c10::intrusive_ptr<c10d::Work> {
        return ours(group).compressed_reduce_scatter(input, output, compression,
                                                     {mean, unit, seed, std::nullopt, async_op});
      },
      py::arg("group"), py::arg("input"), py::arg("output"), py::arg("compression"),
      py::arg("mean"), py::arg("unit") = 1.0F, py::arg("seed") = 0, py::arg("async_op") = false,
      py::call_guard<py::gil_scoped_release>());
  m.def(
      "compressed_all_gather",
      [](const Group& group, const at::Tensor& tensor, const TensorCompression& compression,
         std::uint64_t seed, bool async_op) -> c10::intrusive_ptr<c10d::Work> {
        return ours(group).compressed_allgather(tensor, compression,
                                                {false, 1, seed, std::nullopt, async_op});
      },
      py::arg("group"), py::arg("tensor"), py::arg("compression"), py::arg("seed") = 0,
      py::arg("async_op") = false, py::call_guard<py::gil_scoped_release>());
  m.def(
      "compressed_on_host",
      [](const Group& group, const at::Device& device) {
        return ours(group).compressed_on_host(device);
      },
      py::arg("group"), py::arg("device"), py::call_guard<py::gil_scoped_release>(),
      "Why tensors of this device are compressed on the host, where their residuals then must be; "
      "an empty text: on the device. Collective when it is first asked.");
  m.def(
      "fingerprint",
      [](const std::vector<at::Tensor>& tensors) {
        return as_torch([&] { return fingerprint_of(tensors); });
      },
      py::arg("tensors"), py::call_guard<py::gil_scoped_release>(),
      "Equal where tensors hold the same bytes.");
  m.def(
      "device_route", [](const Group& group) { return ours(group).device_route(); },
      py::arg("group"), py::call_guard<py::gil_scoped_release>(),
      "How the group's collectives on tensors of accelerators go where NCCL does not serve: "
      "\"ipc\", \"mpi\", \"host\", or \"\" before the first one.");
  m.def("call_in_order", &call_in_order,
        "Calls the first argument with the others; futures asked for meanwhile, on this thread, "
        "are complete when it gets them.");
}

void bind_nccl(py::module_& m) {
  m.def(
      "nccl_group",
      [](const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, double timeout,
         const std::vector<std::string>& library_paths,
         const std::string& device_identity) -> Group {
        return as_torch([&] {
          return c10::make_intrusive<NcclGroup>(
              store, rank, size, NcclOptions{Seconds(timeout), library_paths, device_identity});
        });
      },
      py::arg("store"), py::arg("rank"), py::arg("size"), py::arg("timeout"),
      py::arg("library_paths"), py::arg("device_identity") = "",
      py::call_guard<py::gil_scoped_release>(),
      "Makes the part of a group that serves an accelerator's tensors with NCCL; called by all "
      "members. See NcclOptions.");
  m.def(
      "nccl_unusable",
      [](const Group& group, const at::Device& device) -> std::string {
        auto* const backend = dynamic_cast<NcclGroup*>(group.get());
        if (backend == nullptr) throw py::type_error("this backend does not use NCCL");
        return as_torch([&] { return backend->unusable(device); });
      },
      py::arg("group"), py::arg("device"), py::call_guard<py::gil_scoped_release>(),
      "Why the ranks of a group from nccl_group() cannot use NCCL, or an empty text. Collective.");
}

}  // namespace
}  // namespace quoit

PYBIND11_MODULE(_c10d, m) {
  m.doc() = "Quoit as a torch.distributed backend. Use it through the package `quoit`.";
  quoit::bind_compression(m);
  m.def(
      "create",
      [](const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, double timeout,
         const std::string& mpi_library, int mpi_size, const std::vector<std::int64_t>& members,
         const std::optional<std::vector<std::string>>& nccl_libraries)
          -> c10::intrusive_ptr<c10d::Backend> {
        try {
          quoit::ConnectOptions options = quoit::ConnectOptions::from_environment();
          options.timeout = quoit::Seconds(timeout);
          options.mpi_library = mpi_library;
          options.mpi_size = mpi_size;
          std::optional<quoit::NcclOptions> nccl;
          if (nccl_libraries) nccl = quoit::NcclOptions{.libraries = *nccl_libraries};
          return c10::make_intrusive<quoit::ProcessGroupQuoit>(store, rank, size, members, options,
                                                               nccl);
        } catch (const quoit::Error&) {
          std::rethrow_exception(quoit::as_torch_error(std::current_exception()));
        }
      },
      py::arg("store"), py::arg("rank"), py::arg("size"), py::arg("timeout"),
      py::arg("mpi_library") = "", py::arg("mpi_size") = 0,
      py::arg("members") = std::vector<std::int64_t>{}, py::arg("nccl_libraries") = py::none(),
      py::call_guard<py::gil_scoped_release>(),
      "Makes the backend of one group; collective over its members. `timeout` in seconds; "
      "`members` are the group's ranks in the job, empty for all of them. NCCL serves tensors of "
      "accelerators, if it can, where `nccl_libraries` is a list of where it may be.");
  quoit::bind_nccl(m);
}
