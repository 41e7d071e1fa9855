#include "collective/hierarchy.h"

namespace quoit {

Task hierarchical_all_reduce(Board& board, Network& net, Lanes lanes, Algorithm across, Call call,
                             View in, View out, ReduceStep step,
                             std::shared_ptr<Workspace> workspace) {
  // Shard l belongs to lane l; local ranks outside the lanes own nothing.
  std::vector<View> parts;
  std::vector<View> shards;
  for (int local = 0; local < board.size(); ++local) {
    const Slice shard = local < lanes.count
                            ? Slice{0, in.count}.piece(static_cast<std::size_t>(lanes.count),
                                                       static_cast<std::size_t>(local))
                            : Slice{};
    parts.push_back(in.at(shard));
    shards.push_back(out.at(shard));
  }
  const View mine = shards[static_cast<std::size_t>(board.rank())];

  // Only the lanes divide: the average is over all ranks of all hosts.
  co_await direct_reduce_scatter(board, call, parts, mine, {step.op, step.factor, 1});
  if (lanes.member) {
    const ReduceStep now{step.op == ReduceOp::PremulSum ? ReduceOp::Sum : step.op, 1.0,
                         step.divide_by};
    co_await message_all_reduce(across, net, lanes.ring, mine, mine, now, workspace);
  }
  co_await direct_all_gather(board, call, mine, shards);
}

}  // namespace quoit
