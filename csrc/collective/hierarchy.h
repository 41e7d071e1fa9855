#pragma once
// All-reduce over several hosts with several ranks each: reduce inside the host, then all-reduce
// each lane across the hosts, then gather inside the host. A host's link carries what one rank's
// would, however many ranks the host has. Large buffers go in segments, so that the wire, the
// reduction and the copies overlap.
#include "collective/direct.h"
#include "collective/messages.h"

namespace quoit {

// How the ranks of a group lie on hosts. Lane l is made of the l-th rank of every host; there are
// as many lanes as the smallest host has ranks. Ranks beyond the lanes only contribute and receive.
struct Lanes {
  int count = 1;
  bool member = false;  // whether this rank is in a lane
  Ring ring;            // the other ranks of its lane, one per host
};

// Bytes that go through the three stages together: enough for a network to run at its rate, few
// enough that the work inside the hosts hides behind the wire, and stays in cache.
inline constexpr std::size_t kHierarchySegment = 4 * 1024 * 1024;

// `across`: how the lanes go.
Task hierarchical_all_reduce(Board& board, Network& net, Lanes lanes, Algorithm across, Call call,
                             View in, View out, ReduceStep step,
                             std::shared_ptr<Workspace> workspace);

}  // namespace quoit
