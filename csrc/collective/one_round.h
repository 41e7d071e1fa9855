#pragma once
// Direct collectives of what fits into a slot: every rank publishes all that it gives, once, and
// then takes what it wants from the others. Nothing is cut, and nothing allocated but the frame.
#include <vector>

#include "engine/task.h"
#include "kernels/reduce.h"
#include "transport/board.h"

namespace quoit {

// Whether what a rank gives may go in one round. All ranks must find the same, so `bytes` is what
// the largest of them gives. From here on others may read it where it lies.
inline bool fits_one_round(std::size_t bytes) { return bytes < SlotWriter::kWorthReading; }

Task one_round_all_reduce(Board& board, Call call, View in, View out, ReduceStep step);
Task one_round_reduce_scatter(Board& board, Call call, std::vector<View> in, View out,
                              ReduceStep step);
Task one_round_all_gather(Board& board, Call call, View in, std::vector<View> outs);
Task one_round_all_to_all(Board& board, Call call, std::vector<View> ins, std::vector<View> outs);
Task one_round_broadcast(Board& board, Call call, View data, int root);

}  // namespace quoit
