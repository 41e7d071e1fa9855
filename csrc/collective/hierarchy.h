#pragma once
// All-reduce over several hosts with several ranks each: reduce inside the host, then one ring per
// lane across the hosts, then gather inside the host. The network carries every byte once per host
// and ring step, however many ranks a host has.
#include "collective/direct.h"
#include "collective/ring.h"

namespace quoit {

// How the ranks of a group lie on hosts. Lane l is made of the l-th rank of every host; there are
// as many lanes as the smallest host has ranks. Ranks beyond the lanes only contribute and receive.
struct Lanes {
  int count = 1;
  bool member = false;  // whether this rank is in a lane
  Ring ring;            // the other ranks of its lane, one per host
};

Task hierarchical_all_reduce(Board& board, Network& net, Lanes lanes, Call call, View in, View out,
                             ReduceStep step, std::shared_ptr<Workspace> workspace);

}  // namespace quoit
