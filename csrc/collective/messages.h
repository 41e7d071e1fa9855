#pragma once
// Collectives made of messages, for ranks that do not all share memory, and point-to-point itself.
// Vectors of views are in the order of the group's ranks; sizes may differ from rank to rank.
#include <vector>

#include "collective/algorithm.h"
#include "collective/ring.h"
#include "engine/work.h"

namespace quoit {

// By ring, doubling or halving; the messages of a doubling have the tag.
Task message_all_reduce(Algorithm way, Network& net, Ring ring, Call call, View in, View out,
                        ReduceStep step, std::shared_ptr<Workspace> workspace,
                        Tag tag = kCollectiveTag);

// Bytes that a chain passes on at a time.
inline constexpr std::size_t kChainSegment = 256 * 1024;

// From `root` along the ring, segment by segment: every link carries the data once.
Task chain_broadcast(Network& net, Ring ring, View data, int root);

// Binomial tree: the fewest steps, for small data.
Task tree_broadcast(Network& net, Ring ring, View data, int root);

// One exchange with every other rank, at distance 1, 2, ... n - 1.
Task pairwise_all_to_all(Network& net, Ring ring, std::vector<View> ins, std::vector<View> outs);

// Only `root` has outs / ins; the others pass none.
Task linear_gather(Network& net, View in, std::vector<View> outs, int root);
Task linear_scatter(Network& net, std::vector<View> ins, View out, int root);

// A reduce-scatter round the ring, then the chunks go to `root`; `out` matters there only.
Task ring_reduce(Network& net, Ring ring, View in, View out, ReduceStep step, int root,
                 std::shared_ptr<Workspace> workspace);

Task send_message(Network& net, int to, Tag tag, View data);

// `told`, unless it is null, gets who sent it.
Task receive_message(Network& net, int from, Tag tag, View into, Work* told = nullptr);

}  // namespace quoit
