#pragma once
// Direct collectives: ranks that share memory publish into their slots on the board and read each
// other's. Inputs and outputs may be the same memory. Sums run over the ranks in rank order, so the
// result depends on nothing but the inputs, and every rank gets the same bits.
#include <vector>

#include "engine/task.h"
#include "kernels/reduce.h"
#include "transport/board.h"

namespace quoit {

// Up to so many bytes one round is cheapest: everybody publishes all, everybody reduces all.
inline constexpr std::size_t kOneRound = 16 * 1024;

Task direct_all_reduce(Board& board, Call call, View in, View out, ReduceStep step);

// As all_reduce, but only `root` writes `out`.
Task direct_reduce(Board& board, Call call, View in, View out, ReduceStep step, int root);

// Block i of `in` (by rank; sizes may differ, the same on all ranks) is reduced into rank i's
// `out`.
Task direct_reduce_scatter(Board& board, Call call, std::vector<View> in, View out,
                           ReduceStep step);

// outs[i] receives rank i's `in`; sizes may differ, known to all.
Task direct_all_gather(Board& board, Call call, View in, std::vector<View> outs);

// outs[i] receives block [this rank] of rank i; all blocks have one size.
Task direct_all_to_all(Board& board, Call call, std::vector<View> ins, std::vector<View> outs);

Task direct_broadcast(Board& board, Call call, View data, int root);

// Only `root` has outs / ins (one view per rank); the others pass none.
Task direct_gather(Board& board, Call call, View in, std::vector<View> outs, int root);
Task direct_scatter(Board& board, Call call, std::vector<View> ins, View out, int root);

Task direct_barrier(Board& board, Call call);

}  // namespace quoit
