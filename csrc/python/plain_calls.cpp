// The calls that cost least: arrays of NumPy, alone or in a list. pybind11's own way of taking
// arguments apart takes longer than an all_reduce between two cores.
#include <pybind11/numpy.h>

#include <array>

#include "python/objects.h"

namespace quoit {
namespace {

using Arguments = PyObject* const*;

// The element types of NumPy by number; those of other libraries have higher ones.
std::optional<DType> dtype_numbered(int number) {
  constexpr std::array kByNumber{
      DType::Bool,
      DType::Int8,
      DType::UInt8,
      DType::Int16,
      DType::UInt16,
      DType::Int32,
      DType::UInt32,
      sizeof(long) == 8 ? DType::Int64 : DType::Int32,
      sizeof(long) == 8 ? DType::UInt64 : DType::UInt32,
      DType::Int64,
      DType::UInt64,
      DType::Float32,
      DType::Float64,
  };
  constexpr int kHalf = 23;
  if (number == kHalf) return DType::Float16;
  if (number < 0 || number >= static_cast<int>(kByNumber.size())) return std::nullopt;
  return kByNumber[static_cast<std::size_t>(number)];
}

// Of an array of NumPy that is contiguous and, where it must be, writable.
std::optional<View> plain_view(PyObject* object, bool writable) {
  if (!py::isinstance<py::array>(object)) return std::nullopt;
  const auto array = py::reinterpret_borrow<py::array>(object);
  const int needs = py::array::c_style | (writable ? py::detail::npy_api::NPY_ARRAY_WRITEABLE_ : 0);
  if ((array.flags() & needs) != needs) return std::nullopt;
  const py::dtype dtype = array.dtype();
  const std::optional<DType> type = dtype_numbered(dtype.num());
  const char order = dtype.byteorder();
  if (!type || (order != '=' && order != '|')) return std::nullopt;
  return View{static_cast<std::byte*>(const_cast<void*>(array.data())),
              static_cast<std::size_t>(array.size()), *type};
}

// Arrays by rank. The tuple keeps them, whatever becomes of the list that they came in.
struct PlainViews {
  py::tuple arrays;
  std::vector<View> views;
};

std::optional<PlainViews> plain_views(PyObject* object, bool writable) {
  if (!PyList_CheckExact(object) && !PyTuple_CheckExact(object)) return std::nullopt;
  PlainViews found{py::reinterpret_steal<py::tuple>(PySequence_Tuple(object)), {}};
  if (!found.arrays) {
    PyErr_Clear();
    return std::nullopt;
  }
  found.views.reserve(found.arrays.size());
  for (const py::handle array : found.arrays) {
    const auto view = plain_view(array.ptr(), writable);
    if (!view) return std::nullopt;
    found.views.push_back(*view);
  }
  return found;
}

std::optional<long> plain_integer(PyObject* object) {
  if (!PyLong_CheckExact(object)) return std::nullopt;
  int too_large = 0;
  const long value = PyLong_AsLongAndOverflow(object, &too_large);
  return too_large == 0 ? std::optional(value) : std::nullopt;
}

// None is the group's own, which is 0 to the runtime.
std::optional<Seconds> plain_timeout(PyObject* object) {
  if (object == Py_None) return Seconds{0};
  if (!PyFloat_CheckExact(object)) return std::nullopt;
  return Seconds(PyFloat_AS_DOUBLE(object));
}

std::optional<Reduction> plain_reduction(PyObject* op, PyObject* factor) {
  if (!PyUnicode_Check(op) || !PyFloat_CheckExact(factor)) return std::nullopt;
  Py_ssize_t length = 0;
  const char* const name = PyUnicode_AsUTF8AndSize(op, &length);
  if (name == nullptr) {
    PyErr_Clear();
    return std::nullopt;
  }
  const auto known = op_called({name, static_cast<std::size_t>(length)});
  if (!known) return std::nullopt;
  return Reduction{*known, PyFloat_AS_DOUBLE(factor)};
}

// Holds arrays, or tuples of them, while the operation may touch their memory.
std::shared_ptr<void> hold(PyObject* first, PyObject* second) {
  using Arrays = std::array<py::object, 2>;
  return std::shared_ptr<Arrays>(new Arrays{py::reinterpret_borrow<py::object>(first),
                                            py::reinterpret_borrow<py::object>(second)},
                                 [](Arrays* arrays) {
                                   const py::gil_scoped_acquire gil;
                                   delete arrays;
                                 });
}

// The last two arguments of every call.
struct Way {
  Seconds timeout;
  bool background;
};

// (..., timeout, async_op)
std::optional<Way> plain_way(PyObject* timeout, PyObject* async_op) {
  const auto seconds = plain_timeout(timeout);
  if (!seconds || !PyBool_Check(async_op)) return std::nullopt;
  return Way{*seconds, async_op == Py_True};
}

// Makes the call, and waits for it unless it goes on in the background; `first` and `second` are,
// or hold, the arrays it works on.
template <class Start>
PyObject* run(PyObject* self, PyObject* first, PyObject* second, Way way, Start start) {
  try {
    const auto& owner = py::cast<PyCommunicator&>(py::handle(self));
    Communicator& communicator = owner.open();
    CallOptions options{.timeout = way.timeout, .mode = Engine::Mode::Now};
    if (way.background) {
      options.mode = Engine::Mode::Background;
      options.keep = hold(first, second);
    }
    Communicator::Handle work;
    try {
      const py::gil_scoped_release unlocked;
      work = start(communicator, options);
    } catch (const UsageError&) {
      Py_RETURN_FALSE;  // the general method says whose call is wrong
    }
    if (way.background)
      return py::cast(PyWork{std::move(work), &communicator.engine(), owner.engine})
          .release()
          .ptr();
    if (work) {
      work->hold(hold(first, second));
      const py::gil_scoped_release unlocked;
      communicator.engine().wait(*work);
      work = nullptr;
    }
    Py_RETURN_TRUE;
  } catch (...) {
    set_error(std::current_exception());
    return nullptr;
  }
}

// (array, out or None, op, factor, timeout, async_op)
PyObject* all_reduce(PyObject* self, Arguments given, Py_ssize_t) {
  PyObject* const target = given[1] == Py_None ? given[0] : given[1];
  const auto in = plain_view(given[0], false);
  const auto out = plain_view(target, true);
  const auto reduction = plain_reduction(given[2], given[3]);
  const auto way = plain_way(given[4], given[5]);
  if (!in || !out || !reduction || !way) Py_RETURN_FALSE;
  return run(self, given[0], target, *way, [&](Communicator& c, const CallOptions& o) {
    return c.all_reduce(*in, *out, *reduction, o);
  });
}

// (array, root, timeout, async_op)
PyObject* broadcast(PyObject* self, Arguments given, Py_ssize_t) {
  const auto data = plain_view(given[0], true);
  const auto root = plain_integer(given[1]);
  const auto way = plain_way(given[2], given[3]);
  if (!data || !root || !way) Py_RETURN_FALSE;
  return run(self, given[0], given[0], *way, [&](Communicator& c, const CallOptions& o) {
    return c.broadcast(*data, static_cast<int>(*root), o);
  });
}

// (blocks, out, op, factor, timeout, async_op)
PyObject* reduce_scatter(PyObject* self, Arguments given, Py_ssize_t) {
  auto in = plain_views(given[0], false);
  const auto out = plain_view(given[1], true);
  const auto reduction = plain_reduction(given[2], given[3]);
  const auto way = plain_way(given[4], given[5]);
  if (!in || !out || !reduction || !way) Py_RETURN_FALSE;
  return run(self, in->arrays.ptr(), given[1], *way, [&](Communicator& c, const CallOptions& o) {
    return c.reduce_scatter(std::move(in->views), *out, *reduction, o);
  });
}

// (array, outs, timeout, async_op)
PyObject* all_gather(PyObject* self, Arguments given, Py_ssize_t) {
  const auto in = plain_view(given[0], false);
  auto outs = plain_views(given[1], true);
  const auto way = plain_way(given[2], given[3]);
  if (!in || !outs || !way) Py_RETURN_FALSE;
  return run(self, given[0], outs->arrays.ptr(), *way, [&](Communicator& c, const CallOptions& o) {
    return c.all_gather(*in, std::move(outs->views), o);
  });
}

// (ins, outs, uneven, timeout, async_op)
PyObject* all_to_all(PyObject* self, Arguments given, Py_ssize_t) {
  auto ins = plain_views(given[0], false);
  auto outs = plain_views(given[1], true);
  const auto way = plain_way(given[3], given[4]);
  if (!ins || !outs || !PyBool_Check(given[2]) || !way) Py_RETURN_FALSE;
  return run(self, ins->arrays.ptr(), outs->arrays.ptr(), *way,
             [&](Communicator& c, const CallOptions& o) {
               return c.all_to_all(std::move(ins->views), std::move(outs->views),
                                   given[2] == Py_True, o);
             });
}

// (timeout, async_op)
PyObject* barrier(PyObject* self, Arguments given, Py_ssize_t) {
  const auto way = plain_way(given[0], given[1]);
  if (!way) Py_RETURN_FALSE;
  return run(self, Py_None, Py_None, *way,
             [](Communicator& c, const CallOptions& o) { return c.barrier(o); });
}

// (array, to, tag, timeout, async_op)
PyObject* send(PyObject* self, Arguments given, Py_ssize_t) {
  const auto data = plain_view(given[0], false);
  const auto to = plain_integer(given[1]);
  const auto tag = plain_integer(given[2]);
  const auto way = plain_way(given[3], given[4]);
  if (!data || !to || !tag || !way) Py_RETURN_FALSE;
  return run(self, given[0], given[0], *way, [&](Communicator& c, const CallOptions& o) {
    return c.send(*data, static_cast<int>(*to), *tag, o);
  });
}

// (array, source, tag, timeout, async_op); who sent a message from any source is for the general
// method to say.
PyObject* recv(PyObject* self, Arguments given, Py_ssize_t) {
  const auto into = plain_view(given[0], true);
  const auto source = plain_integer(given[1]);
  const auto tag = plain_integer(given[2]);
  const auto way = plain_way(given[3], given[4]);
  if (!into || !source || *source == kAnySource || !tag || !way) Py_RETURN_FALSE;
  return run(self, given[0], given[0], *way, [&](Communicator& c, const CallOptions& o) {
    return c.recv(*into, static_cast<int>(*source), *tag, o);
  });
}

template <int kArguments, PyObject* (*kBody)(PyObject*, Arguments, Py_ssize_t)>
PyObject* method(PyObject* self, Arguments given, Py_ssize_t count) {
  if (count == kArguments) return kBody(self, given, count);
  PyErr_Format(PyExc_TypeError, "expected %d arguments, got %zd", kArguments, count);
  return nullptr;
}

template <int kArguments, PyObject* (*kBody)(PyObject*, Arguments, Py_ssize_t)>
PyMethodDef named(const char* name) {
  const _PyCFunctionFast function = method<kArguments, kBody>;
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function)), METH_FASTCALL,
          nullptr};
}

}  // namespace

void bind_plain_calls(py::class_<PyCommunicator>& communicator) {
  static std::array methods{
      named<6, all_reduce>("plain_all_reduce"),
      named<4, broadcast>("plain_broadcast"),
      named<6, reduce_scatter>("plain_reduce_scatter"),
      named<4, all_gather>("plain_all_gather"),
      named<5, all_to_all>("plain_all_to_all"),
      named<2, barrier>("plain_barrier"),
      named<5, send>("plain_send"),
      named<5, recv>("plain_recv"),
  };
  auto* const type = reinterpret_cast<PyTypeObject*>(communicator.ptr());
  for (PyMethodDef& one : methods)
    communicator.attr(one.ml_name) =
        py::reinterpret_steal<py::object>(PyDescr_NewMethod(type, &one));
}

}  // namespace quoit
