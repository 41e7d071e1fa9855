#pragma once
// What quoit._core hands to Python, and the errors that it raises there.
#include <pybind11/pybind11.h>

#include "collective/connect.h"

namespace quoit {

namespace py = pybind11;

// A communicator, with the engine it runs on when that is not the process's.
struct PyCommunicator {
  std::shared_ptr<Engine> engine;
  std::unique_ptr<Communicator> communicator;

  [[nodiscard]] Communicator& open() const {
    QUOIT_CHECK(communicator != nullptr, UsageError,
                "this communicator was closed: make another one");
    return *communicator;
  }
};

// A handle on an operation; one without `work` is over.
struct PyWork {
  Communicator::Handle work;
  Engine* engine = nullptr;
  std::shared_ptr<Engine> keep;
  int source = kAnySource;

  // Returns when it is over, and the results are in the order of the caller's streams.
  void wait(Deadline deadline) const {
    engine->wait(*work, deadline);
    work->join();
  }
};

// Makes quoit.Error and its kin.
void bind_errors(py::module_& m);

// Sets Python's error indicator to what `error` is there; the interpreter's lock is held.
void set_error(const std::exception_ptr& error);

std::optional<ReduceOp> op_called(std::string_view name);

// Adds the methods of Communicator that make one call on arrays of NumPy at the least cost. Each
// returns True when the call is over, its Work where it goes on in the background, and False,
// having done nothing, when the call is not of the plain kind: then the general method sees to it,
// and says what is wrong if anything is.
void bind_plain_calls(py::class_<PyCommunicator>& communicator);

}  // namespace quoit
