#include "collective/direct.h"

#include "collective/one_round.h"
#include "collective/rounds.h"

namespace quoit {
namespace {

Task all_gather_rounds(Board& board, Call call, View in, std::vector<View> outs) {
  const int me = board.rank();
  const std::size_t span = Board::kSlot / size_of(in.dtype);
  const std::size_t most = longest(outs);
  bool kept = true;  // what this rank gives, until others have read it
  for (int r = 0; r < board.size(); ++r)
    kept = kept && (r == me || !overlap(in, outs[static_cast<std::size_t>(r)]));
  Sources sources(board, call.op, most * size_of(in.dtype), /*judge=*/0,
                  kept ? Sources::Given{in.data, in.bytes()} : Sources::scattered());
  const BulkCopy copy = copy_for(board, in.bytes() + bytes_of(outs));
  const auto write = [&](std::size_t k, Board::Round round) {
    put_window(board, round, in, k, span);
  };
  const auto read = [&](Rounds rounds, Board::Round round) {
    for (int d = 1; d < board.size(); ++d) {
      const int r = (me + d) % board.size();
      const View part = window(outs[static_cast<std::size_t>(r)], rounds, span);
      sources.take(r, rounds.first * Board::kSlot, board.payload(r, round, Board::kSlot), part.data,
                   part.bytes(), copy);
    }
  };
  const auto own = [&] { copy(in.data, outs[static_cast<std::size_t>(me)].data, in.bytes()); };
  co_await run_rounds(board, call, sources, rounds_for(most, span), write, read, own);
}

Task all_to_all_rounds(Board& board, Call call, std::vector<View> ins, std::vector<View> outs) {
  const int me = board.rank();
  const Blocks blocks(board, ins[0].dtype);
  const View mine = ins[static_cast<std::size_t>(me)];
  const std::size_t before = static_cast<std::size_t>(me) * mine.bytes();  // in each rank's
  Sources sources(board, call.op, bytes_of(ins), /*judge=*/0, given(ins, me, outs));
  const BulkCopy copy = copy_for(board, bytes_of(ins) + bytes_of(outs));
  const auto write = [&](std::size_t k, Board::Round round) { blocks.put(ins, k, round); };
  const auto read = [&](Rounds rounds, Board::Round round) {
    for (int d = 1; d < board.size(); ++d) {
      const int r = (me + d) % board.size();
      const View part = window(outs[static_cast<std::size_t>(r)], rounds, blocks.span);
      sources.take(r, before + rounds.first * blocks.span * blocks.item, blocks.at(me, r, round),
                   part.data, part.bytes(), copy);
    }
  };
  const auto own = [&] { copy(mine.data, outs[static_cast<std::size_t>(me)].data, mine.bytes()); };
  co_await run_rounds(board, call, sources, rounds_for(longest(ins), blocks.span), write, read,
                      own);
}

// Where one rank gives, another one can tell how long that takes.
int other_than(int root) { return root == 0 ? 1 : 0; }

Task broadcast_rounds(Board& board, Call call, View data, int root) {
  const bool sends = board.rank() == root;
  const std::size_t span = Board::kSlot / size_of(data.dtype);
  Sources sources(board, call.op, data.bytes(), other_than(root),
                  sends ? Sources::Given{data.data, data.bytes()} : Sources::nothing());
  const BulkCopy copy = copy_for(board, data.bytes());
  const auto write = [&](std::size_t k, Board::Round round) {
    if (sends) put_window(board, round, data, k, span);
  };
  const auto read = [&](Rounds rounds, Board::Round round) {
    if (sends) return;
    const View part = window(data, rounds, span);
    sources.take(root, rounds.first * Board::kSlot, board.payload(root, round, Board::kSlot),
                 part.data, part.bytes(), copy);
  };
  co_await run_rounds(board, call, sources, rounds_for(data.count, span), write, read, [] {});
}

}  // namespace

Task direct_all_gather(Board& board, Call call, View in, std::vector<View> outs) {
  if (fits_one_round(longest(outs) * size_of(in.dtype)))
    return one_round_all_gather(board, call, in, std::move(outs));
  return all_gather_rounds(board, call, in, std::move(outs));
}

Task direct_all_to_all(Board& board, Call call, std::vector<View> ins, std::vector<View> outs) {
  if (fits_one_round(bytes_of(ins)))
    return one_round_all_to_all(board, call, std::move(ins), std::move(outs));
  return all_to_all_rounds(board, call, std::move(ins), std::move(outs));
}

Task direct_broadcast(Board& board, Call call, View data, int root) {
  if (fits_one_round(data.bytes())) return one_round_broadcast(board, call, data, root);
  return broadcast_rounds(board, call, data, root);
}

Task direct_gather(Board& board, Call call, View in, std::vector<View> outs, int root) {
  const int me = board.rank();
  const std::size_t span = Board::kSlot / size_of(in.dtype);
  Sources sources(board, call.op, in.bytes(), /*judge=*/root,
                  me == root ? Sources::nothing() : Sources::Given{in.data, in.bytes()});
  const BulkCopy copy = copy_for(board, in.bytes());
  const auto write = [&](std::size_t k, Board::Round round) {
    if (me != root) put_window(board, round, in, k, span);
  };
  const auto read = [&](Rounds rounds, Board::Round round) {
    for (int r = 0; me == root && r < board.size(); ++r) {
      if (r == me) continue;
      const View part = window(outs[static_cast<std::size_t>(r)], rounds, span);
      sources.take(r, rounds.first * Board::kSlot, board.payload(r, round, Board::kSlot), part.data,
                   part.bytes(), copy);
    }
  };
  const auto own = [&] {
    if (me == root) copy(in.data, outs[static_cast<std::size_t>(me)].data, in.bytes());
  };
  co_await run_rounds(board, call, sources, rounds_for(in.count, span), write, read, own);
}

Task direct_scatter(Board& board, Call call, std::vector<View> ins, View out, int root) {
  const int me = board.rank();
  const Blocks blocks(board, out.dtype);
  const std::size_t before = static_cast<std::size_t>(me) * out.bytes();  // in the root's
  Sources sources(board, call.op, out.bytes(), other_than(root),
                  me == root ? given(ins, me, {out}) : Sources::nothing());
  const BulkCopy copy = copy_for(board, out.bytes());
  const auto write = [&](std::size_t k, Board::Round round) {
    if (me == root) blocks.put(ins, k, round);
  };
  const auto read = [&](Rounds rounds, Board::Round round) {
    if (me == root) return;
    const View part = window(out, rounds, blocks.span);
    sources.take(root, before + rounds.first * blocks.span * blocks.item,
                 blocks.at(me, root, round), part.data, part.bytes(), copy);
  };
  const auto own = [&] {
    if (me == root) copy(ins[static_cast<std::size_t>(me)].data, out.data, out.bytes());
  };
  co_await run_rounds(board, call, sources, rounds_for(out.count, blocks.span), write, read, own);
}

Task direct_barrier(Board& board, Call call) {
  Published everyone(board, board.publish(call));
  co_await everyone;
}

}  // namespace quoit
