#include "python/costs.h"

#include <pybind11/stl.h>

#include "collective/cost.h"

namespace py = pybind11;

namespace quoit {
namespace {

Op op_called(const std::string& name) {
  for (std::size_t op = 0; op < kOps; ++op)
    if (name_of(static_cast<Op>(op)) == name) return static_cast<Op>(op);
  throw UsageError(text("there is no operation '", name, "': all_reduce is one"));
}

Shape shape_of(int hosts, int ranks_per_host) {
  QUOIT_CHECK(hosts > 0 && ranks_per_host > 0, UsageError, hosts, " hosts of ", ranks_per_host,
              " ranks: give at least one of each");
  return {hosts * ranks_per_host, hosts, ranks_per_host};
}

}  // namespace

void bind_costs(py::module_& m) {
  py::class_<Costs>(m, "Costs", "What links cost, in seconds and seconds per byte; see cost.h.")
      .def(py::init<>())
      .def_property(
          "host_alpha", [](const Costs& c) { return c.host.alpha; },
          [](Costs& c, double seconds) { c.host.alpha = seconds; })
      .def_property(
          "host_beta", [](const Costs& c) { return c.host.beta; },
          [](Costs& c, double seconds) { c.host.beta = seconds; })
      .def_property(
          "net_alpha", [](const Costs& c) { return c.net.alpha; },
          [](Costs& c, double seconds) { c.net.alpha = seconds; })
      .def_property(
          "net_beta", [](const Costs& c) { return c.net.beta; },
          [](Costs& c, double seconds) { c.net.beta = seconds; })
      .def_readwrite("gamma", &Costs::gamma);
  m.def("read_costs", &read_costs, py::arg("path"), "Of a file that `quoit tune` wrote.");
  m.def(
      "algorithms",
      [](const std::string& op, int hosts, int ranks_per_host) {
        std::vector<std::string> names;
        for (const Algorithm way : algorithms_for(op_called(op), shape_of(hosts, ranks_per_host)))
          names.emplace_back(name_of(way));
        return names;
      },
      py::arg("op"), py::arg("hosts"), py::arg("ranks_per_host"),
      "The ways in which a collective can go.");
  m.def(
      "predict",
      [](const std::string& op, const std::string& algorithm, double bytes, int hosts,
         int ranks_per_host, const Costs& costs) {
        return predict(op_called(op), algorithm_named(algorithm), bytes,
                       shape_of(hosts, ranks_per_host), costs);
      },
      py::arg("op"), py::arg("algorithm"), py::arg("bytes"), py::arg("hosts"),
      py::arg("ranks_per_host"), py::arg("costs"), "Seconds, by the model of cost.h.");
  m.def(
      "greeting",
      [](int hosts, int ranks_per_host, const Costs& costs) {
        return greeting(shape_of(hosts, ranks_per_host), costs);
      },
      py::arg("hosts"), py::arg("ranks_per_host"), py::arg("costs"),
      "Seconds that ranks take to compare their calls: a collective takes no less.");
}

}  // namespace quoit
