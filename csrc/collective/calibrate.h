#pragma once
// What the links of a group cost, found out by using them.
#include <memory>

#include "collective/cost.h"
#include "collective/ring.h"
#include "transport/board.h"

namespace quoit {

// Fills in `costs`, the same on all ranks: of every figure the largest that a rank found. Between
// hosts, half of what a byte takes there and back, and what a block takes behind another one. Takes
// about twenty times the latency of the network and 1 MiB on each of its links; with more `passes`,
// each takes 16 MiB.
// Host figures stay as they are where no host has two ranks, network figures in a ring of one host.
Task calibrate(Network& net, Ring ring, Board& board, Call call, int passes,
               std::shared_ptr<Workspace> workspace, Costs& costs);

}  // namespace quoit
