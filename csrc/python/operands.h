#pragma once
// The arrays of one call, as Python gives them: buffers of the CPU, or memory of a CUDA device.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "collective/cuda_order.h"
#include "collective/cuda_staging.h"
#include "python/objects.h"

namespace quoit {

// Memory of a CUDA device that is contiguous; quoit/device_arrays.py describes it.
struct DeviceArray {
  py::object owner;  // of the memory
  std::uintptr_t data;
  std::string dtype;  // the runtime's name, or NumPy's
  std::size_t size;   // elements
  std::size_t bytes;
  std::optional<std::uintptr_t> stream;  // on which it is used; nothing: it is ready, or made so
  bool writable;
};

// Hands out views, and holds the arrays until the operation is over.
class Operands {
 public:
  View view(const py::object& array, const std::string& dtype, bool writable);
  std::vector<View> views(const std::vector<py::object>& arrays, const std::string& dtype,
                          bool writable);

  // Of an array that stays in the memory of the CPU, wherever the others are.
  View on_host(const py::object& array, const std::string& dtype, bool writable);

  // What keeps the arrays, and orders those of a device, or brings them to the host; once, after
  // the views.
  CallOptions options(bool background, double timeout);

 private:
  View on_device(const DeviceArray& array, const std::string& dtype, bool writable);
  [[nodiscard]] std::shared_ptr<void> held();

  std::vector<std::unique_ptr<py::buffer_info>> buffers_;
  bool beside_ = false;             // whether a view is of memory of the CPU
  std::vector<py::object> owners_;  // of the memory of a device
  CudaDevice* device_ = nullptr;    // unknown while all its arrays are empty
  std::vector<CudaStream> streams_;
  bool untold_ = false;     // whether a stream is not told
  bool unordered_ = false;  // whether a result is used on a stream that is not among these
};

void bind_device_arrays(py::module_& m);

}  // namespace quoit
