// Products of a matrix with thin factors, for benchmarks.
#include <pybind11/pybind11.h>

#include <algorithm>

#include "kernels/codec_kernels.h"
#include "python/kernels.h"

namespace py = pybind11;

namespace quoit {
namespace {

// float32, with as many rows and columns as the array has.
struct Array {
  Array(const py::buffer& array, bool writable) : info(bytes_of(array, writable)) {
    QUOIT_CHECK(info.format == py::format_descriptor<float>::format() && info.ndim == 2, UsageError,
                "products with factors are of float32 arrays with two dimensions");
    data = static_cast<float*>(info.ptr);
    rows = static_cast<std::size_t>(info.shape[0]);
    cols = static_cast<std::size_t>(info.shape[1]);
  }

  // Row j of the array is column j of the factor.
  [[nodiscard]] Factor factor(std::size_t length) const {
    QUOIT_CHECK(cols == factor_stride(length), UsageError, "a factor for a side of ", length,
                " has columns of ", factor_stride(length), " numbers, not of ", cols);
    return {data, cols, rows};
  }

  py::buffer_info info;
  float* data;
  std::size_t rows;
  std::size_t cols;
};

struct Matrix {
  Matrix(const py::buffer& array, const py::object& residual, bool writable)
      : in(array, writable),
        lost(residual.is_none() ? array : residual.cast<py::buffer>(), writable) {
    QUOIT_CHECK(lost.rows == in.rows && lost.cols == in.cols, UsageError,
                "a residual is of the size of its matrix");
    source = {.in = in.data, .count = in.rows * in.cols};
    if (!residual.is_none()) source.carried = lost.data;
  }

  Array in;
  Array lost;
  Source source;
};

void times(const py::buffer& array, const py::buffer& right, const py::buffer& into,
           const py::object& residual) {
  const Matrix m(array, residual, false);
  const Array q(right, false), p(into, true);
  const Factor from = q.factor(m.in.cols), to = p.factor(m.in.rows);
  const py::gil_scoped_release unlocked;
  codec_kernels().low_rank.times(m.source, m.in.cols, from, to);
}

void transposed_times(const py::buffer& array, const py::buffer& left, const py::buffer& into,
                      const py::object& residual) {
  const Matrix m(array, residual, false);
  const Array p(left, false), q(into, true);
  const Factor from = p.factor(m.in.rows), to = q.factor(m.in.cols);
  const py::gil_scoped_release unlocked;
  std::fill_n(to.at, to.stride * to.columns, 0.0F);
  codec_kernels().low_rank.transposed_times(m.source, m.in.cols, from, to);
}

void restore(const py::buffer& array, const py::buffer& left, const py::buffer& right,
             const py::object& residual) {
  Matrix m(array, residual, true);
  const Array p(left, false), q(right, false);
  const FactorPair pair{p.factor(m.in.rows), q.factor(m.in.cols)};
  if (m.source.carried) m.source.residual = m.lost.data;
  const py::gil_scoped_release unlocked;
  codec_kernels().low_rank.restore(m.source, m.in.cols, pair, pair, m.in.data);
}

}  // namespace

void bind_low_rank(py::module_& m) {
  m.def("low_rank_stride", &factor_stride, py::arg("length"), "Of the columns of factors.");
  m.def("low_rank_times", &times, py::arg("array"), py::arg("right"), py::arg("into"),
        py::arg("residual") = py::none(),
        "into = (array + residual) right. Rows of `right` and `into` are columns of the factors, "
        "filled up with zeros to low_rank_stride() numbers.");
  m.def("low_rank_transposed_times", &transposed_times, py::arg("array"), py::arg("left"),
        py::arg("into"), py::arg("residual") = py::none(), "into = (array + residual)^T left");
  m.def("low_rank_restore", &restore, py::arg("array"), py::arg("left"), py::arg("right"),
        py::arg("residual") = py::none(),
        "array = left right^T; what the array and the residual had beyond it is the residual.");
}

}  // namespace quoit
