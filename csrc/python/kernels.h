#pragma once
// The kernels, for benchmarks of them alone.
#include <pybind11/pybind11.h>

#include <string>

#include "kernels/reduce.h"

namespace quoit {

// The bytes of a contiguous buffer; the caller keeps the object for as long as it uses them.
pybind11::buffer_info bytes_of(const pybind11::buffer& buffer, bool writable);

Isa isa_called(const std::string& name);

void bind_kernels(pybind11::module_& m);
void bind_codecs(pybind11::module_& m);
void bind_low_rank(pybind11::module_& m);

}  // namespace quoit
