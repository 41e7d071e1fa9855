#pragma once
// The kernels, for benchmarks of them alone, and what all bindings ask of buffers.
#include <pybind11/pybind11.h>

#include <string>

#include "kernels/reduce.h"

namespace quoit {

// The bytes of a contiguous buffer; the caller keeps the object for as long as it uses them.
pybind11::buffer_info bytes_of(const pybind11::buffer& buffer, bool writable);

// By the runtime's name of it; UsageError if it has none.
DType dtype_named(const std::string& name);

Isa isa_called(const std::string& name);

void bind_kernels(pybind11::module_& m);
void bind_codecs(pybind11::module_& m);
void bind_low_rank(pybind11::module_& m);

}  // namespace quoit
