#include "collective/direct.h"

#include <algorithm>

#include "core/copy.h"

namespace quoit {
namespace {

// Up to here one round is cheapest: everybody publishes all, everybody reduces all.
constexpr std::size_t kOneRound = 16 * 1024;

// The part of `view` that round `k` carries when a round holds `span` elements.
View window(View view, std::size_t k, std::size_t span) {
  const std::size_t begin = std::min(k * span, view.count);
  return view.at({begin, std::min(span, view.count - begin)});
}

// Rounds that carry `count` elements, `span` each; at least one, so that ranks always compare
// calls.
std::size_t rounds_for(std::size_t count, std::size_t span) {
  return std::max<std::size_t>(1, ceil_div(count, span));
}

std::size_t longest(const std::vector<View>& views) {
  std::size_t count = 0;
  for (const View& view : views) count = std::max(count, view.count);
  return count;
}

// A slot cut into one block per rank, each of `span` elements.
struct Blocks {
  Blocks(Board& board, DType dtype)
      : board(board),
        item(size_of(dtype)),
        span(Board::kSlot / static_cast<std::size_t>(board.size()) / item) {}

  // Where rank `holder` puts what is meant for rank `owner`.
  [[nodiscard]] std::byte* at(int owner, int holder, Board::Round round) const {
    return board.payload(holder, round, Board::kSlot) +
           static_cast<std::size_t>(owner) * span * item;
  }

  // Puts round k of every part that is meant for somebody else.
  void put(const std::vector<View>& parts, std::size_t k, Board::Round round) const {
    for (int r = 0; r < board.size(); ++r) {
      if (r == board.rank()) continue;
      const View part = window(parts[static_cast<std::size_t>(r)], k, span);
      board.writer().put(part.data, at(r, board.rank(), round), part.bytes());
    }
  }

  Board& board;
  std::size_t item;
  std::size_t span;
};

// The skeleton of most collectives: `write(k, round)` fills this rank's slot, `read(k, round)` uses
// the others'. A rank publishes one round ahead of the one it reads, so that nobody waits for a
// copy. A round moves `bytes` through a slot, the last one perhaps fewer.
template <class Write, class Read>
Task run_rounds(Board& board, const Call& call, std::size_t rounds, std::size_t bytes, Write write,
                Read read) {
  board.writer().begin(call.op, rounds * bytes);
  const auto publish = [&](std::size_t k) {
    write(k, board.next());
    return board.publish(call);
  };
  Board::Round current = publish(0);
  for (std::size_t k = 0; k < rounds; ++k) {
    const Board::Round next = k + 1 < rounds ? publish(k + 1) : current;
    Published everyone(board, current);
    co_await everyone;
    read(k, current);
    board.writer().moved(bytes);
    current = next;
  }
}

// One round: everybody reads everything.
Task all_reduce_one_round(Board& board, Call call, View in, View out, ReduceStep step) {
  const std::size_t bytes = in.bytes();
  const Board::Round round = board.next();
  copy_bytes(in.data, board.payload(board.rank(), round, bytes), bytes);
  board.publish(call);
  Published everyone(board, round);
  co_await everyone;
  std::vector<const std::byte*> inputs;
  for (int r = 0; r < board.size(); ++r) inputs.push_back(board.payload(r, round, bytes));
  reduce(in.dtype, step, inputs, out.data, nullptr, out.count);
}

// Two rounds for every span of the buffer: publish the pieces that others own; reduce the own piece
// out of all slots, straight into `out` and into the own slot; copy the others' results. The pieces
// of the next span are published before this one is reduced.
Task all_reduce_rounds(Board& board, Call call, View in, View out, ReduceStep step, int receiver) {
  const int me = board.rank();
  const auto n = static_cast<std::size_t>(board.size());
  const std::size_t item = size_of(in.dtype);
  const std::size_t span = Board::kSlot / item;
  const std::size_t rounds = rounds_for(in.count, span);
  const bool receives = receiver < 0 || receiver == me;
  std::vector<const std::byte*> inputs(n);

  const auto stage = [&](std::size_t k) {
    const View all = window(in, k, span);
    std::byte* const slot = board.payload(me, board.next(), Board::kSlot);
    for (std::size_t r = 0; r < n; ++r) {
      if (static_cast<int>(r) == me) continue;
      const Slice piece = Slice{0, all.count}.piece(n, r);
      board.writer().put(all.at(piece).data, slot + piece.begin * item, piece.count * item);
    }
    return board.publish(call);
  };

  board.writer().begin(call.op, in.bytes());
  Board::Round staged = stage(0);
  Board::Round ahead = rounds > 1 ? stage(1) : staged;
  for (std::size_t k = 0; k < rounds; ++k) {
    const View from = window(in, k, span);
    const View to = window(out, k, span);
    Published contributions(board, staged);
    co_await contributions;
    const Slice mine = Slice{0, from.count}.piece(n, static_cast<std::size_t>(me));
    for (std::size_t r = 0; r < n; ++r)
      inputs[r] =
          static_cast<int>(r) == me
              ? from.at(mine).data
              : board.payload(static_cast<int>(r), staged, Board::kSlot) + mine.begin * item;
    std::byte* const shared = board.payload(me, board.next(), Board::kSlot);
    if (!receives) {
      reduce(in.dtype, step, inputs, shared, nullptr, mine.count);
    } else if (board.writer().way() == SlotWriter::Way::Plain) {
      reduce(in.dtype, step, inputs, to.at(mine).data, shared, mine.count);
    } else {
      reduce(in.dtype, step, inputs, to.at(mine).data, nullptr, mine.count);
      board.writer().put(to.at(mine).data, shared, mine.count * item);
    }
    const Board::Round reduced = board.publish(call);
    for (std::size_t d = 1; d < n; ++d) {
      const int peer = static_cast<int>((static_cast<std::size_t>(me) + d) % n);
      Published result(board, reduced, peer, peer + 1);
      co_await result;
      const Slice theirs = Slice{0, from.count}.piece(n, static_cast<std::size_t>(peer));
      if (receives)
        copy_bytes(board.payload(peer, reduced, Board::kSlot), to.at(theirs).data,
                   theirs.count * item);
    }
    board.writer().moved(from.bytes());
    staged = ahead;
    if (k + 2 < rounds) ahead = stage(k + 2);
  }
}

}  // namespace

Task direct_all_reduce(Board& board, Call call, View in, View out, ReduceStep step) {
  if (in.bytes() <= kOneRound) return all_reduce_one_round(board, call, in, out, step);
  return all_reduce_rounds(board, call, in, out, step, /*receiver=*/-1);
}

Task direct_reduce(Board& board, Call call, View in, View out, ReduceStep step, int root) {
  return all_reduce_rounds(board, call, in, out, step, root);
}

Task direct_reduce_scatter(Board& board, Call call, std::vector<View> in, View out,
                           ReduceStep step) {
  const int me = board.rank();
  const Blocks blocks(board, out.dtype);
  std::vector<const std::byte*> inputs(in.size());
  const auto write = [&](std::size_t k, Board::Round round) { blocks.put(in, k, round); };
  const auto read = [&](std::size_t k, Board::Round round) {
    const View mine = window(in[static_cast<std::size_t>(me)], k, blocks.span);
    for (int r = 0; r < board.size(); ++r)
      inputs[static_cast<std::size_t>(r)] = r == me ? mine.data : blocks.at(me, r, round);
    reduce(out.dtype, step, inputs, window(out, k, blocks.span).data, nullptr, mine.count);
  };
  co_await run_rounds(board, call, rounds_for(longest(in), blocks.span), Board::kSlot, write, read);
}

Task direct_all_gather(Board& board, Call call, View in, std::vector<View> outs) {
  const int me = board.rank();
  const std::size_t span = Board::kSlot / size_of(in.dtype);
  const auto write = [&](std::size_t k, Board::Round round) {
    const View part = window(in, k, span);
    board.writer().put(part.data, board.payload(me, round, Board::kSlot), part.bytes());
  };
  const auto read = [&](std::size_t k, Board::Round round) {
    for (int r = 0; r < board.size(); ++r) {
      const View part = window(outs[static_cast<std::size_t>(r)], k, span);
      if (r != me) copy_bytes(board.payload(r, round, Board::kSlot), part.data, part.bytes());
    }
  };
  copy_bytes(in.data, outs[static_cast<std::size_t>(me)].data, in.bytes());
  co_await run_rounds(board, call, rounds_for(longest(outs), span), Board::kSlot, write, read);
}

Task direct_all_to_all(Board& board, Call call, std::vector<View> ins, std::vector<View> outs) {
  const int me = board.rank();
  const Blocks blocks(board, ins[0].dtype);
  const auto write = [&](std::size_t k, Board::Round round) { blocks.put(ins, k, round); };
  const auto read = [&](std::size_t k, Board::Round round) {
    for (int r = 0; r < board.size(); ++r) {
      const View part = window(outs[static_cast<std::size_t>(r)], k, blocks.span);
      if (r != me) copy_bytes(blocks.at(me, r, round), part.data, part.bytes());
    }
  };
  copy_bytes(ins[static_cast<std::size_t>(me)].data, outs[static_cast<std::size_t>(me)].data,
             ins[static_cast<std::size_t>(me)].bytes());
  co_await run_rounds(board, call, rounds_for(longest(ins), blocks.span), Board::kSlot, write,
                      read);
}

Task direct_broadcast(Board& board, Call call, View data, int root) {
  const bool sends = board.rank() == root;
  const std::size_t span = Board::kSlot / size_of(data.dtype);
  const auto write = [&](std::size_t k, Board::Round round) {
    const View part = window(data, k, span);
    if (sends)
      board.writer().put(part.data, board.payload(root, round, Board::kSlot), part.bytes());
  };
  const auto read = [&](std::size_t k, Board::Round round) {
    const View part = window(data, k, span);
    if (!sends) copy_bytes(board.payload(root, round, Board::kSlot), part.data, part.bytes());
  };
  co_await run_rounds(board, call, rounds_for(data.count, span), Board::kSlot, write, read);
}

Task direct_gather(Board& board, Call call, View in, std::vector<View> outs, int root) {
  const int me = board.rank();
  const std::size_t span = Board::kSlot / size_of(in.dtype);
  const auto write = [&](std::size_t k, Board::Round round) {
    const View part = window(in, k, span);
    if (me != root)
      board.writer().put(part.data, board.payload(me, round, Board::kSlot), part.bytes());
  };
  const auto read = [&](std::size_t k, Board::Round round) {
    if (me != root) return;
    for (int r = 0; r < board.size(); ++r) {
      const View part = window(outs[static_cast<std::size_t>(r)], k, span);
      if (r != me) copy_bytes(board.payload(r, round, Board::kSlot), part.data, part.bytes());
    }
  };
  if (me == root) copy_bytes(in.data, outs[static_cast<std::size_t>(me)].data, in.bytes());
  co_await run_rounds(board, call, rounds_for(in.count, span), Board::kSlot, write, read);
}

Task direct_scatter(Board& board, Call call, std::vector<View> ins, View out, int root) {
  const int me = board.rank();
  const Blocks blocks(board, out.dtype);
  const auto write = [&](std::size_t k, Board::Round round) {
    if (me == root) blocks.put(ins, k, round);
  };
  const auto read = [&](std::size_t k, Board::Round round) {
    const View part = window(out, k, blocks.span);
    if (me != root) copy_bytes(blocks.at(me, root, round), part.data, part.bytes());
  };
  if (me == root) copy_bytes(ins[static_cast<std::size_t>(me)].data, out.data, out.bytes());
  co_await run_rounds(board, call, rounds_for(out.count, blocks.span), Board::kSlot, write, read);
}

Task direct_barrier(Board& board, Call call) {
  const auto nothing = [](std::size_t, Board::Round) {};
  co_await run_rounds(board, call, 1, 0, nothing, nothing);
}

}  // namespace quoit
