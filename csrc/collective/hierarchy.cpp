#include "collective/hierarchy.h"

#include <optional>

namespace quoit {

Task hierarchical_all_reduce(Board& board, Network& net, Lanes lanes, Algorithm across, Call call,
                             View in, View out, ReduceStep step,
                             std::shared_ptr<Workspace> workspace) {
  const std::size_t segments = std::max<std::size_t>(1, ceil_div(in.bytes(), kHierarchySegment));
  // Shard l of a segment belongs to lane l; local ranks outside the lanes own nothing.
  const auto shards_of = [&](View view, std::size_t segment) {
    const Slice whole = Slice{0, view.count}.piece(segments, segment);
    std::vector<View> shards;
    for (int local = 0; local < board.size(); ++local)
      shards.push_back(view.at(
          local < lanes.count
              ? whole.piece(static_cast<std::size_t>(lanes.count), static_cast<std::size_t>(local))
              : Slice{}));
    return shards;
  };
  const auto mine = [&](std::size_t segment) {
    return shards_of(out, segment)[static_cast<std::size_t>(board.rank())];
  };
  // Only the lanes divide: the average is over all ranks of all hosts.
  const ReduceStep inside{step.op, step.factor, 1};
  const ReduceStep between{step.op == ReduceOp::PremulSum ? ReduceOp::Sum : step.op, 1.0,
                           step.divide_by};

  std::optional<Beside> wire;
  for (std::size_t k = 0; k <= segments; ++k) {
    // While segment k - 1 is on the wire, k is reduced inside the host.
    if (k < segments)
      co_await direct_reduce_scatter(board, call, shards_of(in, k), mine(k), inside);
    if (wire) co_await *wire;
    wire.reset();
    if (k < segments && lanes.member)
      wire.emplace(
          message_all_reduce(across, net, lanes.ring, call, mine(k), mine(k), between, workspace));
    // And while k is on the wire, k - 1 is handed to everybody inside.
    if (k > 0) co_await direct_all_gather(board, call, mine(k - 1), shards_of(out, k - 1));
  }
}

}  // namespace quoit
