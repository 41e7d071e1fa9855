#pragma once
// Collectives made of messages, for ranks that do not all share memory, and point-to-point itself.
// Vectors of views are in the order of the group's ranks; sizes may differ from rank to rank.
#include <vector>

#include "collective/algorithm.h"
#include "collective/ring.h"
#include "engine/work.h"

namespace quoit {

// By ring, doubling or halving.
Task message_all_reduce(Algorithm way, Hands hands, Ring ring, Call call, View in, View out,
                        ReduceStep step, std::shared_ptr<Workspace> workspace);

// Bytes that a chain passes on at a time.
inline constexpr std::size_t kChainSegment = 256 * 1024;

// From `root` along the ring, segment by segment: every link carries the data once.
Task chain_broadcast(Hands hands, Ring ring, View data, int root);

// Binomial tree: the fewest steps, for small data.
Task tree_broadcast(Hands hands, Ring ring, View data, int root);

// One exchange with every other rank, at distance 1, 2, ... n - 1.
Task pairwise_all_to_all(Hands hands, Ring ring, std::vector<View> ins, std::vector<View> outs);

// Only `root` has outs / ins; the others pass none.
Task linear_gather(Hands hands, View in, std::vector<View> outs, int root);
Task linear_scatter(Hands hands, std::vector<View> ins, View out, int root);

// A reduce-scatter round the ring, then the chunks go to `root`; `out` matters there only.
Task ring_reduce(Hands hands, Ring ring, View in, View out, ReduceStep step, int root,
                 std::shared_ptr<Workspace> workspace);

Task send_message(Network& net, int to, Tag tag, View data);

// `told`, unless it is null, gets who sent it.
Task receive_message(Network& net, int from, Tag tag, View into, Work* told = nullptr);

}  // namespace quoit
