#include "collective/one_round.h"

#include "collective/windows.h"
#include "core/copy.h"

namespace quoit {
namespace {

void copy_view(View from, std::byte* to) { copy_bytes(from.data, to, from.bytes()); }

// Puts a block for each rank into this rank's part of the round, one after another; its own would
// be read by nobody and is left out.
void put_blocks(Board& board, const std::vector<View>& blocks, std::byte* payload) {
  for (int r = 0; r < board.size(); ++r) {
    const View block = blocks[static_cast<std::size_t>(r)];
    if (r != board.rank()) copy_view(block, payload);
    payload += block.bytes();
  }
}

}  // namespace

Task one_round_all_reduce(Board& board, Call call, View in, View out, ReduceStep step) {
  const std::size_t bytes = in.bytes();
  const Board::Round round = board.next();
  copy_view(in, board.payload(board.rank(), round, bytes));
  board.publish(call);
  Published everyone(board, round);
  co_await everyone;
  const std::span inputs = board.inputs();
  for (int r = 0; r < board.size(); ++r)
    inputs[static_cast<std::size_t>(r)] = board.payload(r, round, bytes);
  reduce(in.dtype, step, inputs, out.data, nullptr, out.count);
}

Task one_round_reduce_scatter(Board& board, Call call, std::vector<View> in, View out,
                              ReduceStep step) {
  const int me = board.rank();
  const std::size_t bytes = bytes_of(in);
  const Board::Round round = board.next();
  put_blocks(board, in, board.payload(me, round, bytes));
  board.publish(call);
  Published everyone(board, round);
  co_await everyone;
  const std::size_t mine = bytes_before(in, me);
  const std::span inputs = board.inputs();
  for (int r = 0; r < board.size(); ++r)
    inputs[static_cast<std::size_t>(r)] =
        r == me ? in[static_cast<std::size_t>(me)].data : board.payload(r, round, bytes) + mine;
  reduce(out.dtype, step, inputs, out.data, nullptr, out.count);
}

Task one_round_all_gather(Board& board, Call call, View in, std::vector<View> outs) {
  const int me = board.rank();
  const Board::Round round = board.next();
  copy_view(in, board.payload(me, round, in.bytes()));
  board.publish(call);
  copy_view(in, outs[static_cast<std::size_t>(me)].data);
  Published everyone(board, round);
  co_await everyone;
  for (int r = 0; r < board.size(); ++r) {
    const View out = outs[static_cast<std::size_t>(r)];
    if (r != me) copy_bytes(board.payload(r, round, out.bytes()), out.data, out.bytes());
  }
}

Task one_round_all_to_all(Board& board, Call call, std::vector<View> ins, std::vector<View> outs) {
  const int me = board.rank();
  const std::size_t block = ins[0].bytes();  // they all have one size
  const std::size_t bytes = block * ins.size();
  const Board::Round round = board.next();
  put_blocks(board, ins, board.payload(me, round, bytes));
  board.publish(call);
  copy_view(ins[static_cast<std::size_t>(me)], outs[static_cast<std::size_t>(me)].data);
  Published everyone(board, round);
  co_await everyone;
  for (int r = 0; r < board.size(); ++r) {
    if (r == me) continue;
    copy_bytes(board.payload(r, round, bytes) + static_cast<std::size_t>(me) * block,
               outs[static_cast<std::size_t>(r)].data, block);
  }
}

Task one_round_broadcast(Board& board, Call call, View data, int root) {
  const bool sends = board.rank() == root;
  const std::size_t bytes = data.bytes();
  const Board::Round round = board.next();
  if (sends) copy_view(data, board.payload(root, round, bytes));
  board.publish(call);
  Published everyone(board, round);
  co_await everyone;
  if (!sends) copy_bytes(board.payload(root, round, bytes), data.data, bytes);
}

}  // namespace quoit
