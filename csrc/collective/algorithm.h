#pragma once
// The ways in which a collective can go, and what the choice depends on: the shape of the group.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/call.h"

namespace quoit {

// Auto leaves the choice to the cost model; every other name is one way of going.
enum class Algorithm : std::uint8_t {
  Auto,
  Direct,     // through shared memory
  Ring,       // round the ring, chunk by chunk
  Chain,      // along the ring, segment by segment
  Doubling,   // recursive doubling, or Bruck's
  Halving,    // recursive halving, and doubling to get back
  Tree,       // binomial
  Hierarchy,  // inside the hosts, across them, inside the hosts
  Pairwise,   // a message from each rank to each
};
std::string_view name_of(Algorithm algorithm);

// Whether asking for it keeps ranks of one host from using their memory.
bool made_of_messages(Algorithm algorithm);

// Throws UsageError for a name that is none.
Algorithm algorithm_named(std::string_view name);

// How the ranks of a group lie on hosts. A host is what shares memory.
struct Shape {
  int ranks = 1;
  int hosts = 1;
  int ranks_per_host = 1;  // of the fullest host
};

// The ways in which `op` can go on such a group; Auto is not among them.
std::vector<Algorithm> algorithms_for(Op op, const Shape& shape);

}  // namespace quoit
