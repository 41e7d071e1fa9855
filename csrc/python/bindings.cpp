// quoit._core: the runtime without torch. Arrays come as anything with the buffer protocol, or as
// DeviceArrays; the Python side (quoit/communicator.py) makes them that.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/host.h"
#include "core/interfaces.h"
#include "kernels/reduce.h"
#include "python/arena.h"
#include "python/costs.h"
#include "python/kernels.h"
#include "python/operands.h"
#include "transport/mpi.h"

namespace quoit {
namespace {

ReduceOp op_named(const std::string& name) {
  if (const auto op = op_called(name)) return *op;
  throw UsageError(
      text("reduce op '", name,
           "' is not known: choose SUM, AVG, PRODUCT, MIN, MAX, BAND, BOR, BXOR or PREMUL_SUM"));
}

// Ctrl-C reaches a thread that waits in here. Makes the engine, so not called at import: a process
// that only imports quoit may still fork.
void watch_signals() {
  Engine::process().set_interrupt([] {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  });
}

using Arrays = std::vector<py::object>;

template <class Start>
PyWork start(PyCommunicator& self, Operands& operands, bool background, double timeout,
             Start start_call) {
  CallOptions options = operands.options(background, timeout);
  const py::gil_scoped_release unlocked;
  PyWork started{start_call(self.open(), std::move(options)), &self.open().engine(), self.engine};
  if (!background) started.wait({});
  return started;
}

void bind_communicator(py::module_& m) {
  py::class_<PyWork>(m, "Work", "Handle on an operation, in flight or over.")
      .def(py::init([](int source) { return PyWork{.source = source}; }), py::arg("source"),
           "One that is over, and was a receive from `source`.")
      .def("done", [](const PyWork& self) { return !self.work || self.work->done(); })
      .def(
          "wait",
          [](const PyWork& self, double timeout) {
            if (self.work) self.wait(timeout > 0 ? Deadline::after(Seconds(timeout)) : Deadline());
          },
          py::arg("timeout") = 0.0, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("source", [](const PyWork& self) {
        return self.work ? self.work->source() : self.source;
      });

  py::class_<PyCommunicator> communicator(m, "Communicator",
                                          "A group of ranks; see quoit.Communicator.");
  bind_plain_calls(communicator);
  communicator
      .def_property_readonly("rank", [](const PyCommunicator& c) { return c.open().rank(); })
      .def_property_readonly("size", [](const PyCommunicator& c) { return c.open().size(); })
      .def_property_readonly("where", [](const PyCommunicator& c) { return c.open().where(); })
      .def("route",
           [](const PyCommunicator& c, int peer) { return std::string(c.open().route(peer)); })
      .def("device_route", [](PyCommunicator& c) { return std::string(c.open().device_route()); })
      .def(
          "abort", [](PyCommunicator& c, const std::string& why) { c.open().abort(why); },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "close",
          [](PyCommunicator& c) {
            if (c.communicator) c.communicator->shut_down();
            c.communicator.reset();
          },
          py::call_guard<py::gil_scoped_release>())
      .def("all_reduce",
           [](PyCommunicator& self, const py::object& in, const py::object& out,
              const std::string& dtype, const std::string& op, double factor, bool background,
              double timeout) {
             Operands operands;
             const View from = operands.view(in, dtype, false);
             const View to = operands.view(out, dtype, true);
             const Reduction reduction{op_named(op), factor};
             return start(self, operands, background, timeout, [&](Communicator& c, CallOptions o) {
               return c.all_reduce(from, to, reduction, std::move(o));
             });
           })
      .def("compressed_all_reduce",
           [](PyCommunicator& self, const py::object& data, const std::string& dtype,
              const std::string& op, const std::string& codec,
              const std::optional<py::object>& residual, bool background, double timeout) {
             Operands operands;
             const View view = operands.view(data, dtype, true);
             Part all{{0, view.count}, codec_named(codec)};
             if (residual)
               all.residual =
                   reinterpret_cast<float*>(operands.on_host(*residual, "float32", true).data);
             auto how = std::make_shared<const Compression>(std::vector<Part>{std::move(all)});
             const Reduction reduction{op_named(op)};
             return start(self, operands, background, timeout, [&](Communicator& c, CallOptions o) {
               return c.compressed_all_reduce(view, std::move(how), {}, reduction, std::move(o));
             });
           })
      .def("reduce",
           [](PyCommunicator& self, const py::object& in, const py::object& out,
              const std::string& dtype, const std::string& op, double factor, int root,
              bool background, double timeout) {
             Operands operands;
             const View from = operands.view(in, dtype, false);
             const View to = operands.view(out, dtype, true);
             const Reduction reduction{op_named(op), factor};
             return start(self, operands, background, timeout, [&](Communicator& c, CallOptions o) {
               return c.reduce(from, to, reduction, root, std::move(o));
             });
           })
      .def("broadcast",
           [](PyCommunicator& self, const py::object& data, const std::string& dtype, int root,
              bool background, double timeout) {
             Operands operands;
             const View view = operands.view(data, dtype, true);
             return start(self, operands, background, timeout, [&](Communicator& c, CallOptions o) {
               return c.broadcast(view, root, std::move(o));
             });
           })
      .def("reduce_scatter",
           [](PyCommunicator& self, const Arrays& in, const py::object& out,
              const std::string& dtype, const std::string& op, double factor, bool background,
              double timeout) {
             Operands operands;
             auto from = operands.views(in, dtype, false);
             const View to = operands.view(out, dtype, true);
             const Reduction reduction{op_named(op), factor};
             return start(self, operands, background, timeout, [&](Communicator& c, CallOptions o) {
               return c.reduce_scatter(std::move(from), to, reduction, std::move(o));
             });
           })
      .def("all_gather",
           [](PyCommunicator& self, const py::object& in, const Arrays& outs,
              const std::string& dtype, bool background, double timeout) {
             Operands operands;
             const View from = operands.view(in, dtype, false);
             auto to = operands.views(outs, dtype, true);
             return start(self, operands, background, timeout, [&](Communicator& c, CallOptions o) {
               return c.all_gather(from, std::move(to), std::move(o));
             });
           })
      .def("all_to_all",
           [](PyCommunicator& self, const Arrays& ins, const Arrays& outs, const std::string& dtype,
              bool uneven, bool background, double timeout) {
             Operands operands;
             auto from = operands.views(ins, dtype, false);
             auto to = operands.views(outs, dtype, true);
             return start(self, operands, background, timeout, [&](Communicator& c, CallOptions o) {
               return c.all_to_all(std::move(from), std::move(to), uneven, std::move(o));
             });
           })
      .def("gather",
           [](PyCommunicator& self, const py::object& in, const Arrays& outs,
              const std::string& dtype, int root, bool background, double timeout) {
             Operands operands;
             const View from = operands.view(in, dtype, false);
             auto to = operands.views(outs, dtype, true);
             return start(self, operands, background, timeout, [&](Communicator& c, CallOptions o) {
               return c.gather(from, std::move(to), root, std::move(o));
             });
           })
      .def("scatter",
           [](PyCommunicator& self, const Arrays& ins, const py::object& out,
              const std::string& dtype, int root, bool background, double timeout) {
             Operands operands;
             auto from = operands.views(ins, dtype, false);
             const View to = operands.view(out, dtype, true);
             return start(self, operands, background, timeout, [&](Communicator& c, CallOptions o) {
               return c.scatter(std::move(from), to, root, std::move(o));
             });
           })
      .def("barrier",
           [](PyCommunicator& self, bool background, double timeout) {
             Operands operands;
             return start(self, operands, background, timeout,
                          [&](Communicator& c, CallOptions o) { return c.barrier(std::move(o)); });
           })
      .def("measure",
           [](PyCommunicator& self, int passes, bool background, double timeout) {
             Operands operands;
             return start(self, operands, background, timeout, [&](Communicator& c, CallOptions o) {
               return c.measure(passes, std::move(o));
             });
           })
      .def("allocate",
           [](PyCommunicator& self, std::size_t bytes) {
             return PyMemory{self.open().engine().arena().allocate(bytes), bytes};
           })
      .def_property_readonly("costs", [](PyCommunicator& self) { return self.open().costs(); })
      .def("send",
           [](PyCommunicator& self, const py::object& data, const std::string& dtype, int to,
              Tag tag, bool background, double timeout) {
             Operands operands;
             const View view = operands.view(data, dtype, false);
             return start(self, operands, background, timeout, [&](Communicator& c, CallOptions o) {
               return c.send(view, to, tag, std::move(o));
             });
           })
      .def("recv", [](PyCommunicator& self, const py::object& into, const std::string& dtype,
                      int from, Tag tag, bool background, double timeout) {
        Operands operands;
        const View view = operands.view(into, dtype, true);
        return start(self, operands, background, timeout, [&](Communicator& c, CallOptions o) {
          return c.recv(view, from, tag, std::move(o));
        });
      });
}

void bind_connect(py::module_& m) {
  py::class_<ConnectOptions>(m, "ConnectOptions",
                             "How a group is made; defaults from the environment.")
      .def(py::init(&ConnectOptions::from_environment))
      .def_property(
          "timeout", [](const ConnectOptions& o) { return o.timeout.count(); },
          [](ConnectOptions& o, double seconds) { o.timeout = Seconds(seconds); })
      .def_readwrite("transport", &ConnectOptions::transport)
      .def_readwrite("algorithm", &ConnectOptions::algorithm)
      .def_readwrite("costs", &ConnectOptions::costs)
      .def_property(
          "interfaces", [](const ConnectOptions& o) { return o.tcp.interfaces; },
          [](ConnectOptions& o, const std::string& names) { o.tcp.interfaces = names; })
      .def_property(
          "ports", [](const ConnectOptions& o) { return o.tcp.ports; },
          [](ConnectOptions& o, const std::string& range) { o.tcp.ports = range; })
      .def_property(
          "streams", [](const ConnectOptions& o) { return o.tcp.streams; },
          [](ConnectOptions& o, int streams) { o.tcp.streams = streams; })
      .def_readwrite("mpi_library", &ConnectOptions::mpi_library)
      .def_readwrite("mpi_size", &ConnectOptions::mpi_size);

  m.def(
      "connect",
      [](int rank, int size, const Rendezvous& meet, const ConnectOptions& options) {
        const py::gil_scoped_release unlocked;
        try {
          auto communicator = connect(Engine::process(), rank, size, meet, options);
          return PyCommunicator{nullptr, std::move(communicator)};
        } catch (const Error&) {
          std::rethrow_exception(
              said_by(text("rank ", rank, " on ", host_name()), std::current_exception()));
        }
      },
      py::arg("rank"), py::arg("size"), py::arg("rendezvous"), py::arg("options"),
      "Makes a group; rendezvous(my_text) -> everybody's texts, by rank.");

  m.def(
      "connect_threads",
      [](const std::vector<std::string>& hosts, const ConnectOptions& options) {
        std::vector<PyCommunicator> world;
        for (ThreadRank& rank : connect_threads(hosts, options))
          world.push_back({std::move(rank.engine), std::move(rank.communicator)});
        return world;
      },
      py::arg("hosts"), py::arg("options"), "Ranks as threads of this process, for tests.");

  m.def(
      "mpi_all_gather_strings",
      [](const std::string& library, const std::string& said, int expected_size, double timeout) {
        return MpiLibrary::load(library, expected_size)
            .all_gather_strings(said, Deadline::after(Seconds(timeout)));
      },
      py::arg("library"), py::arg("text"), py::arg("expected_size") = 0, py::arg("timeout") = 300.0,
      py::call_guard<py::gil_scoped_release>(), "Everybody's text, by rank of MPI_COMM_WORLD.");
  m.def(
      "mpi_version", [](const std::string& library) { return MpiLibrary::load(library).version(); },
      py::arg("library") = "", py::call_guard<py::gil_scoped_release>());
  m.def(
      "mpi_finalize",
      [] {
        if (MpiLibrary* mpi = MpiLibrary::loaded()) mpi->finalize();
      },
      py::call_guard<py::gil_scoped_release>(),
      "Ends MPI if quoit began it; for the end of a program that ends well.");
  m.def(
      "interfaces",
      [] {
        std::vector<std::pair<std::string, std::string>> found;
        for (Interface& one : interfaces())
          found.emplace_back(std::move(one.name), std::move(one.address));
        return found;
      },
      "Names and addresses of this host, loopback included.");
  m.def(
      "reachable",
      [](const std::vector<std::pair<std::string, std::string>>& found, const std::string& chosen) {
        std::vector<Interface> all;
        for (const auto& [name, address] : found) all.push_back({name, address});
        std::vector<std::pair<std::string, std::string>> usable;
        for (Interface& one : reachable(all, chosen))
          usable.emplace_back(std::move(one.name), std::move(one.address));
        return usable;
      },
      py::arg("found"), py::arg("chosen"),
      "Those that another host may connect to, as QUOIT_IFACE's value narrows them.");
  m.def("watch_signals", &watch_signals, "Makes waits inside the engine notice Ctrl-C.");
  m.def(
      "stop", [] { Engine::process().stop(); }, py::call_guard<py::gil_scoped_release>(),
      "Ends the engine's threads; called when the interpreter exits.");
}

}  // namespace

std::optional<ReduceOp> op_called(std::string_view name) {
  for (int i = 0; i < kReduceOps; ++i)
    if (name_of(static_cast<ReduceOp>(i)) == name) return static_cast<ReduceOp>(i);
  return std::nullopt;
}

}  // namespace quoit

PYBIND11_MODULE(_core, m) {
  m.doc() = "Quoit's native runtime. Use it through the package `quoit`.";
  quoit::bind_errors(m);
  quoit::bind_communicator(m);
  quoit::bind_arena(m);
  quoit::bind_device_arrays(m);
  quoit::bind_costs(m);
  quoit::bind_connect(m);
  quoit::bind_kernels(m);
  m.def(
      "isa", [] { return std::string(quoit::name_of(quoit::isa_in_use())); },
      "Instruction set of the kernels.");
  m.def("host_identity", &quoit::host_identity, "Equal for processes that can share memory.");
}
