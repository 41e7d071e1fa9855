#include "python/operands.h"

#include "python/kernels.h"

namespace quoit {
namespace {

py::buffer_info request(const py::buffer& buffer, bool writable) {
  try {
    return bytes_of(buffer, writable);
  } catch (const py::error_already_set& error) {
    throw UsageError(text("the array cannot be used (", error.what(), "): pass ",
                          writable ? "one that may be written to" : "one of numbers"));
  }
}

}  // namespace

View Operands::view(const py::object& array, const std::string& dtype, bool writable) {
  if (py::isinstance<DeviceArray>(array))
    return on_device(array.cast<const DeviceArray&>(), dtype, writable);
  beside_ = true;
  return on_host(array, dtype, writable);
}

std::vector<View> Operands::views(const std::vector<py::object>& arrays, const std::string& dtype,
                                  bool writable) {
  std::vector<View> all;
  for (const py::object& array : arrays) all.push_back(view(array, dtype, writable));
  return all;
}

View Operands::on_host(const py::object& array, const std::string& dtype, bool writable) {
  const DType type = dtype_named(dtype);
  auto info = std::make_unique<py::buffer_info>(request(array, writable));
  const auto bytes = static_cast<std::size_t>(info->size * info->itemsize);
  View view{static_cast<std::byte*>(info->ptr), bytes / size_of(type), type};
  buffers_.push_back(std::move(info));
  return view;
}

View Operands::on_device(const DeviceArray& array, const std::string& dtype, bool writable) {
  const DType type = dtype_named(dtype);
  QUOIT_CHECK(array.writable || !writable, UsageError,
              "the array of a CUDA device is read-only: pass one that may be written to");
  if (array.bytes > 0) {
    CudaDevice* const device = [&] {
      const py::gil_scoped_release unlocked;
      return &CudaDevice::holding(array.data);
    }();
    QUOIT_CHECK(device_ == nullptr || device_ == device, UsageError,
                "an array of the call is on CUDA device ", device->number, ", another on ",
                device_->number, ": copy one of them");
    device_ = device;
  }
  owners_.push_back(array.owner);
  if (array.stream)
    streams_.push_back(reinterpret_cast<CudaStream>(*array.stream));
  else
    unordered_ |= writable;
  return {reinterpret_cast<std::byte*>(array.data), array.bytes / size_of(type), type};
}

// Freed with the interpreter's lock held.
std::shared_ptr<void> Operands::held() {
  struct Held {
    std::vector<std::unique_ptr<py::buffer_info>> buffers;
    std::vector<py::object> owners;
  };
  return std::shared_ptr<Held>(new Held{std::move(buffers_), std::move(owners_)}, [](Held* held) {
    const py::gil_scoped_acquire gil;
    delete held;
  });
}

CallOptions Operands::options(bool background, double timeout) {
  CallOptions options{.timeout = Seconds(timeout),
                      .mode = background ? Engine::Mode::Background : Engine::Mode::Foreground};
  if (owners_.empty()) {
    options.keep = held();
    return options;
  }
  QUOIT_CHECK(!beside_, UsageError,
              "an array of the call is in the memory of the CPU, another in that of a CUDA device: "
              "copy one of them");
  CudaDevice& device = [&]() -> CudaDevice& {
    const py::gil_scoped_release unlocked;
    return device_ != nullptr ? *device_ : CudaDevice::current();
  }();
  auto staging = std::make_shared<CudaStaging>(device);
  for (CudaStream const stream : streams_) staging->add(stream);
  if (unordered_) staging->finish_on_host();
  staging->hold(held());
  options.staging = std::move(staging);
  return options;
}

}  // namespace quoit
