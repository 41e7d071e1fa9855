#pragma once
// Where the ranks of a group are, and what follows from it. host_of[r] numbers the host of rank r.
#include <sched.h>

#include <string>
#include <vector>

#include "collective/algorithm.h"
#include "collective/hierarchy.h"

namespace quoit {

Shape shape_of(const std::vector<int>& host_of);

// All ranks, hosts one after another, so that few links of the ring leave a host.
Ring ring_by_host(const std::vector<int>& host_of, int rank);

Lanes lanes_over(const std::vector<int>& host_of, int rank);

// The cores that a rank may run on.
struct Seat {
  std::string machine;  // see machine_identity()
  cpu_set_t cpus;
};

// Whether the ranks on this one's machine, be they on other "hosts" there, are more than the cores
// they may run on together: then nobody spins.
bool oversubscribed(const std::vector<Seat>& seats, int rank);

}  // namespace quoit
