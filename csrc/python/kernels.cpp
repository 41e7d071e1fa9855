#include "python/kernels.h"

#include <pybind11/stl.h>

#include <algorithm>

#include "core/copy.h"
#include "kernels/cuda.h"

namespace py = pybind11;

namespace quoit {
namespace {

constexpr Isa kIsas[] = {Isa::Baseline, Isa::X86V3, Isa::X86V4};

std::size_t length(const py::buffer_info& info) {
  return static_cast<std::size_t>(info.size * info.itemsize);
}

void copy(const py::buffer& from, const py::buffer& to, bool stream) {
  const py::buffer_info in = bytes_of(from, false);
  const py::buffer_info out = bytes_of(to, true);
  QUOIT_CHECK(length(in) == length(out), UsageError, "a copy of ", length(in), " bytes into ",
              length(out), ": pass arrays of one size");
  const py::gil_scoped_release unlocked;
  (stream ? stream_bytes : copy_bytes)(static_cast<const std::byte*>(in.ptr),
                                       static_cast<std::byte*>(out.ptr), length(in));
}

void sum(const std::vector<py::buffer>& ins, const py::buffer& out, const std::string& dtype,
         const std::string& isa) {
  const Isa set = isa_called(isa);
  const DType type = dtype_named(dtype);
  const py::buffer_info result = bytes_of(out, true);
  std::vector<py::buffer_info> infos;
  std::vector<const std::byte*> inputs;
  for (const py::buffer& in : ins) {
    infos.push_back(bytes_of(in, false));
    QUOIT_CHECK(length(infos.back()) == length(result), UsageError, "a sum of ",
                length(infos.back()), " bytes into ", length(result), ": pass arrays of one size");
    inputs.push_back(static_cast<const std::byte*>(infos.back().ptr));
  }
  const py::gil_scoped_release unlocked;
  reduce_on(set, type, {ReduceOp::Sum, 1.0, 1}, inputs, static_cast<std::byte*>(result.ptr),
            nullptr, length(result) / size_of(type));
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Isa isa : kIsas)
    if (isa_available(isa)) names.emplace_back(name_of(isa));
  return names;
}

}  // namespace

py::buffer_info bytes_of(const py::buffer& buffer, bool writable) {
  py::buffer_info info = buffer.request(writable);
  QUOIT_CHECK(PyBuffer_IsContiguous(info.view(), 'C') != 0, UsageError,
              "the array is not contiguous: pass numpy.ascontiguousarray(array)");
  return info;
}

DType dtype_named(const std::string& name) {
  for (int i = 0; i < kDTypes; ++i)
    if (name_of(static_cast<DType>(i)) == name) return static_cast<DType>(i);
  throw UsageError(text("dtype '", name, "' is not known to quoit: convert the array to another"));
}

Isa isa_called(const std::string& name) {
  const auto* set = std::find_if(std::begin(kIsas), std::end(kIsas),
                                 [&](Isa one) { return name_of(one) == name; });
  QUOIT_CHECK(set != std::end(kIsas), UsageError, "'", name,
              "' is no instruction set of the kernels");
  return *set;
}

void bind_kernels(py::module_& m) {
  m.def("isas", &isas, "Instruction sets of the kernels that this CPU has, worst first.");
  m.def("copy", &copy, py::arg("from_"), py::arg("to"), py::arg("stream") = false,
        "One array into another of its size; stream: past the caches.");
  m.def("sum", &sum, py::arg("ins"), py::arg("out"), py::arg("dtype"), py::arg("isa"),
        "The sum of arrays of one dtype, by the kernels of an instruction set.");
  m.def("cuda_built", &cuda::built,
        "What the kernels for CUDA were built for; empty where there are none. Asks no driver.");
  m.def(
      "cuda_devices",
      [] {
        const cuda::Status found = cuda::status();
        return py::make_tuple(found.devices, found.problem);
      },
      "The names of the devices that the kernels can run on, and why there are none.");
  m.def("require_cuda", &cuda::require, "Raises UnavailableError where they cannot run.");
  bind_codecs(m);
  bind_low_rank(m);
}

}  // namespace quoit
