// quoit's errors as Python's.
#include "python/objects.h"

namespace quoit {
namespace {

// The classes that errors have in Python.
PyObject *error_class, *usage_error, *transport_error, *timeout_error, *unavailable_error;

}  // namespace

// quoit.UsageError is a ValueError too, and so on: code that knows only the builtins catches them.
void bind_errors(py::module_& m) {
  error_class = PyErr_NewException("quoit.Error", PyExc_RuntimeError, nullptr);
  m.attr("Error") = py::handle(error_class);
  const auto make = [&m](const char* name, PyObject* builtin) {
    const py::tuple bases = py::make_tuple(py::handle(error_class), py::handle(builtin));
    PyObject* type = PyErr_NewException(text("quoit.", name).c_str(), bases.ptr(), nullptr);
    m.attr(name) = py::handle(type);
    return type;
  };
  usage_error = make("UsageError", PyExc_ValueError);
  transport_error = make("TransportError", PyExc_ConnectionError);
  timeout_error = make("TimeoutError", PyExc_TimeoutError);
  unavailable_error = make("UnavailableError", PyExc_NotImplementedError);
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const Error&) {
      set_error(error);
    }
  });
}

void set_error(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (py::error_already_set& e) {
    e.restore();
  } catch (const UsageError& e) {
    PyErr_SetString(usage_error, e.what());
  } catch (const TransportError& e) {
    PyErr_SetString(transport_error, e.what());
  } catch (const TimeoutError& e) {
    PyErr_SetString(timeout_error, e.what());
  } catch (const UnavailableError& e) {
    PyErr_SetString(unavailable_error, e.what());
  } catch (const std::exception& e) {
    PyErr_SetString(error_class, e.what());
  }
}

}  // namespace quoit
