#pragma once
// Where the ranks of a group are, and what follows from it. host_of[r] numbers the host of rank r.
#include <vector>

#include "collective/algorithm.h"
#include "collective/hierarchy.h"

namespace quoit {

Shape shape_of(const std::vector<int>& host_of);

// All ranks, hosts one after another, so that few links of the ring leave a host.
Ring ring_by_host(const std::vector<int>& host_of, int rank);

Lanes lanes_over(const std::vector<int>& host_of, int rank);

}  // namespace quoit
