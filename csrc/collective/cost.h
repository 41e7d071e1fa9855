#pragma once
// What collectives cost, and so which algorithm to take.
//
// The model: a message of b bytes takes alpha + beta b (Hockney, "The communication challenge for
// MPP", 1994), combining b bytes with b others takes gamma b, and the ranks of a host share its
// link. Step counts are those of Thakur, Rabenseifner & Gropp, "Optimization of collective
// communication operations in MPICH", 2005.
#include <cstddef>
#include <string>

#include "collective/algorithm.h"

namespace quoit {

// Between two ranks: seconds per message, and per byte.
struct Link {
  double alpha;
  double beta;
};

// As long as nothing was measured, those of an ordinary machine with a 10 Gbit/s network.
struct Costs {
  // Through the memory of a host: of a round of all its ranks; additions included.
  Link host{1e-6, 1e-10};
  Link net{30e-6, 0.8e-9};  // between hosts: of the one link that the ranks of a host share
  double gamma = 5e-11;     // seconds to combine a byte with another
};

// Of a file that `quoit tune` wrote: lines "name = number" with the names host_alpha, host_beta,
// net_alpha, net_beta and gamma; "#" begins a comment. Throws UsageError for anything else, naming
// the line.
Costs read_costs(const std::string& path);

// Seconds that `op` takes by `algorithm`. `bytes` is the size of the whole: of the buffer of
// all_reduce, broadcast and reduce, of all blocks together where a rank has one for everybody.
// Throws UsageError when the op cannot go that way.
double predict(Op op, Algorithm algorithm, double bytes, const Shape& shape, const Costs& costs);

// Meanwhile, whatever the algorithm, ranks of several hosts compare their calls: no collective
// takes less than this.
double greeting(const Shape& shape, const Costs& costs);

// The cheapest, and what it is thought to take.
struct Choice {
  Algorithm algorithm;
  double seconds;
};
Choice choose(Op op, double bytes, const Shape& shape, const Costs& costs);

// How a hierarchy goes across the hosts.
Choice choose_across(double bytes, const Shape& shape, const Costs& costs);

}  // namespace quoit
