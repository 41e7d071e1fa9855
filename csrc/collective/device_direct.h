#pragma once
// The collectives on memory of devices of one host; see device_lane.h. As direct.h has them, with
// the same order of sums, and so with the same bits. A task is over when all its work is in the
// lane's stream.
#include <vector>

#include "collective/device_lane.h"
#include "engine/task.h"

namespace quoit {

Task device_all_reduce(DeviceLane& lane, Call call, View in, View out, ReduceStep step);
Task device_reduce(DeviceLane& lane, Call call, View in, View out, ReduceStep step, int root);
Task device_reduce_scatter(DeviceLane& lane, Call call, std::vector<View> in, View out,
                           ReduceStep step);
Task device_all_gather(DeviceLane& lane, Call call, View in, std::vector<View> outs);

// Sizes may differ if `uneven`, which is the same on all ranks.
Task device_all_to_all(DeviceLane& lane, Call call, std::vector<View> ins, std::vector<View> outs,
                       bool uneven);
Task device_broadcast(DeviceLane& lane, Call call, View data, int root);
Task device_gather(DeviceLane& lane, Call call, View in, std::vector<View> outs, int root);
Task device_scatter(DeviceLane& lane, Call call, std::vector<View> ins, View out, int root);
Task device_barrier(DeviceLane& lane, Call call);

// Round the ring of ranks, for QUOIT_ALGORITHM=ring: sums have the order of the ring, and are
// rounded at each hop.
Task device_ring_all_reduce(DeviceLane& lane, Call call, View in, View out, ReduceStep step);

}  // namespace quoit
