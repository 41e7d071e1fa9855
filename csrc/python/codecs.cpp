// Codecs on whole arrays, for benchmarks, and for whoever wants to know what they lose.
#include <pybind11/pybind11.h>

#include <algorithm>

#include "compress/codec.h"
#include "python/kernels.h"

namespace py = pybind11;

namespace quoit {
namespace {

struct Floats {
  py::buffer_info info;
  float* data;
  std::size_t count;
};

Floats floats_of(const py::buffer& array, bool writable) {
  Floats floats{bytes_of(array, writable), nullptr, 0};
  QUOIT_CHECK(floats.info.format == py::format_descriptor<float>::format(), UsageError,
              "a codec works on float32, not on an array of format '", floats.info.format,
              "': convert it");
  floats.data = static_cast<float*>(floats.info.ptr);
  floats.count = static_cast<std::size_t>(floats.info.size);
  return floats;
}

std::size_t array_bytes(const Codec& codec, std::size_t count) {
  const std::size_t rest = count % kTile;
  return count / kTile * codec.bytes(kTile) + (rest > 0 ? codec.bytes(rest) : 0);
}

py::buffer_info encoded_bytes(const Codec& codec, const py::buffer& bytes, bool writable,
                              std::size_t count) {
  py::buffer_info info = bytes_of(bytes, writable);
  const std::size_t wanted = array_bytes(codec, count);
  const auto given = static_cast<std::size_t>(info.size * info.itemsize);
  QUOIT_CHECK(given == wanted, UsageError, codec.name(), " encodes ", count, " numbers in ", wanted,
              " bytes, not in ", given, ": pass an array of that size");
  return info;
}

// call(begin, count, bytes before) for each tile.
template <class Call>
void for_each_tile(const Codec& codec, std::size_t count, const Call& call) {
  std::size_t before = 0;
  for (std::size_t begin = 0; begin < count; begin += kTile) {
    const std::size_t n = std::min(kTile, count - begin);
    call(begin, n, before);
    before += codec.bytes(n);
  }
}

void encode(const Codec& codec, const py::buffer& array, const py::buffer& out,
            const py::object& residual, std::uint64_t key) {
  const Floats in = floats_of(array, false);
  const py::buffer_info bytes = encoded_bytes(codec, out, true, in.count);
  Floats lost{{}, nullptr, in.count};
  if (!residual.is_none()) lost = floats_of(residual.cast<py::buffer>(), true);
  QUOIT_CHECK(lost.count == in.count, UsageError, "the residual has ", lost.count,
              " numbers, the array ", in.count, ": pass arrays of one size");
  const py::gil_scoped_release unlocked;
  for_each_tile(codec, in.count, [&](std::size_t begin, std::size_t n, std::size_t before) {
    Source from{.in = in.data + begin, .count = n};
    if (lost.data) from.carried = from.residual = lost.data + begin;
    from.key = key + begin;
    codec.encode(from, static_cast<std::byte*>(bytes.ptr) + before);
  });
}

void decode(const Codec& codec, const py::buffer& in, const py::buffer& out) {
  const Floats floats = floats_of(out, true);
  const py::buffer_info bytes = encoded_bytes(codec, in, false, floats.count);
  const py::gil_scoped_release unlocked;
  for_each_tile(codec, floats.count, [&](std::size_t begin, std::size_t n, std::size_t before) {
    codec.decode(static_cast<const std::byte*>(bytes.ptr) + before, floats.data + begin, n);
  });
}

void add(const Codec& codec, const py::buffer& in, const py::buffer& sum) {
  const Floats floats = floats_of(sum, true);
  const py::buffer_info bytes = encoded_bytes(codec, in, false, floats.count);
  const py::gil_scoped_release unlocked;
  for_each_tile(codec, floats.count, [&](std::size_t begin, std::size_t n, std::size_t before) {
    codec.add(static_cast<const std::byte*>(bytes.ptr) + before, floats.data + begin, n);
  });
}

}  // namespace

void bind_codecs(py::module_& m) {
  py::class_<Codec, std::shared_ptr<Codec>>(m, "Codec", "What writes float32 in fewer bytes.")
      .def(py::init([](const std::string& name, const std::string& isa) {
             return std::const_pointer_cast<Codec>(
                 codec_named(name, isa.empty() ? isa_in_use() : isa_called(isa)));
           }),
           py::arg("name"), py::arg("isa") = "",
           "By its name, such as 'int8'; isa: the instruction set, by default the best.")
      .def_property_readonly("name", &Codec::name)
      .def("bytes", &array_bytes, py::arg("count"), "What so many numbers take.")
      .def("encode", &encode, py::arg("array"), py::arg("out"), py::arg("residual") = py::none(),
           py::arg("key") = 0,
           "residual: is added to the array first, and holds what was lost afterwards. key: of "
           "random rounding.")
      .def("decode", &decode, py::arg("in_"), py::arg("out"))
      .def("add", &add, py::arg("in_"), py::arg("sum"), "sum += decoded");
}

}  // namespace quoit
