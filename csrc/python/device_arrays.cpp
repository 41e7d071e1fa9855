// Arrays of a CUDA device for quoit/device_arrays.py: what a capsule of DLPack holds, and the
// DeviceArray that calls take.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "collective/cuda_peers.h"
#include "python/operands.h"

namespace quoit {
namespace {

// As in dlpack.h, versions 0 and 1.
struct DlTensor {
  void* data;
  std::int32_t device_type;
  std::int32_t device;
  std::int32_t dimensions;
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
  const std::int64_t* shape;
  const std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct DlManagedTensor {
  DlTensor tensor;
  void* context;
  void (*deleter)(DlManagedTensor*);
};
struct DlVersionedTensor {
  std::uint32_t major;
  std::uint32_t minor;
  void* context;
  void (*deleter)(DlVersionedTensor*);
  std::uint64_t flags;
  DlTensor tensor;
};
constexpr const char* kManaged = "dltensor";
constexpr const char* kVersioned = "dltensor_versioned";
constexpr std::uint64_t kReadOnly = 1;

// (address, code, bits, lanes, shape, strides or None, whether it may be written to). The capsule
// is left as it is, and so frees the tensor when it goes.
py::tuple dlpack_tensor(const py::capsule& capsule) {
  bool writable = true;
  const DlTensor* tensor = nullptr;
  if (PyCapsule_IsValid(capsule.ptr(), kVersioned) != 0) {
    const auto* const managed =
        static_cast<DlVersionedTensor*>(PyCapsule_GetPointer(capsule.ptr(), kVersioned));
    QUOIT_CHECK(managed->major == 1, UsageError, "the array comes by DLPack ", managed->major, ".",
                managed->minor, ", and quoit knows 0 and 1: pass one of another library");
    writable = (managed->flags & kReadOnly) == 0;
    tensor = &managed->tensor;
  } else {
    auto* const managed =
        static_cast<DlManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), kManaged));
    if (managed == nullptr) throw py::error_already_set();
    tensor = &managed->tensor;
  }
  const auto sizes = [&](const std::int64_t* begin) {
    return py::cast(std::vector(begin, begin + tensor->dimensions));
  };
  return py::make_tuple(reinterpret_cast<std::uintptr_t>(tensor->data) + tensor->byte_offset,
                        tensor->code, tensor->bits, tensor->lanes, sizes(tensor->shape),
                        tensor->strides != nullptr ? sizes(tensor->strides) : py::none(), writable);
}

// For `quoit doctor`: what two processes need to share memory of a device, without a group.
py::bytes cuda_ipc_offer(int device) {
  constexpr std::size_t kBytes = std::size_t{2} << 20;
  // For good: another process is to open it.
  static auto& scratches = *new std::vector<std::unique_ptr<CudaScratch>>;
  auto scratch = std::make_unique<CudaScratch>(CudaDevice::numbered(device), kBytes);
  const CudaOffer& offer = scratches.emplace_back(std::move(scratch))->offer();
  return {reinterpret_cast<const char*>(&offer), sizeof offer};
}

void cuda_ipc_open(int device, const std::string& said) {
  CudaOffer offer;
  std::memcpy(&offer, said.data(), std::min(said.size(), sizeof offer));
  const CudaWindow window(CudaDevice::numbered(device), offer);
}

}  // namespace

void bind_device_arrays(py::module_& m) {
  py::class_<DeviceArray>(m, "DeviceArray", "Contiguous memory of a CUDA device, for one call.")
      .def(py::init([](py::object owner, std::uintptr_t data, std::string dtype, std::size_t size,
                       std::size_t bytes, std::optional<std::uintptr_t> stream, bool writable) {
             return DeviceArray{std::move(owner), data,    std::move(dtype), size, bytes,
                                stream,           writable};
           }),
           py::kw_only(), py::arg("owner"), py::arg("data"), py::arg("dtype"), py::arg("size"),
           py::arg("bytes"), py::arg("stream"), py::arg("writable"))
      .def_readonly("dtype", &DeviceArray::dtype)
      .def_readonly("size", &DeviceArray::size);
  m.def("dlpack_tensor", &dlpack_tensor,
        "(address, code, bits, lanes, shape, strides or None, writable) of a capsule.");
  m.def(
      "cuda_copy_stream",
      [](int device) {
        return reinterpret_cast<std::uintptr_t>(CudaDevice::numbered(device).in());
      },
      py::arg("device"), py::call_guard<py::gil_scoped_release>(),
      "On which calls copy arrays of the device to the host.");
  m.def("cuda_ipc_offer", &cuda_ipc_offer, py::arg("device"),
        "Memory and events of a device, for cuda_ipc_open() in another process of this host.");
  m.def("cuda_ipc_open", &cuda_ipc_open, py::arg("device"), py::arg("offer"),
        "Raises where they cannot be used from a device of this process.");
}

}  // namespace quoit
