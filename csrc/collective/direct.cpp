#include "collective/direct.h"

#include <algorithm>
#include <cstring>

#include "collective/one_round.h"
#include "collective/windows.h"
#include "core/copy.h"

namespace quoit {
namespace {

// Puts round `k` of `view` into this rank's slot; takes it out of another's.
void put_window(Board& board, Board::Round round, View view, std::size_t k, std::size_t span) {
  const View part = window(view, k, span);
  board.writer().put(part.data, board.payload(board.rank(), round, Board::kSlot), part.bytes());
}
void take_window(Board& board, Board::Round round, int rank, View view, std::size_t k,
                 std::size_t span, const BulkCopy& copy) {
  const View part = window(view, k, span);
  copy(board.payload(rank, round, Board::kSlot), part.data, part.bytes());
}

// For a collective in which each rank reads and writes so many bytes of its caller's.
BulkCopy copy_for(const Board& board, std::size_t bytes) {
  return BulkCopy(bytes * static_cast<std::size_t>(board.size()));
}

// A slot cut into one block for each other rank, each of `span` elements: whole cache lines.
struct Blocks {
  Blocks(Board& board, DType dtype)
      : board(board),
        item(size_of(dtype)),
        span(block_span(Board::kSlot, board.size(), kCacheLine, dtype)) {}

  // Where rank `holder` puts what is meant for rank `owner`, another one.
  [[nodiscard]] std::byte* at(int owner, int holder, Board::Round round) const {
    return board.payload(holder, round, Board::kSlot) + block_for(owner, holder) * span * item;
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

// Where to read what each rank gives to a collective: in its slots, or, when it lies in an arena,
// in place, which spares its owner the copy into the slots. Ranks need not be alike in this.
class Sources {
 public:
  // This rank gives `bytes` at `data`.
  Sources(Board& board, const std::byte* data, std::size_t bytes)
      : board_(board), bases_(static_cast<std::size_t>(board.size())) {
    if (bytes >= kWorthMapping) mine_ = board.arena().place_of(data, bytes);
  }

  [[nodiscard]] bool mine_in_place() const { return mine_.shared(); }

  // Before this rank publishes the collective's first round.
  void announce() const {
    std::memcpy(board_.payload(board_.rank(), board_.next(), sizeof mine_), &mine_, sizeof mine_);
  }

  // When everybody has published it.
  void learn(Board::Round round) {
    for (int r = 0; r < board_.size(); ++r) {
      Place place;
      std::memcpy(&place, board_.payload(r, round, sizeof place), sizeof place);
      if (!place.shared()) continue;
      some_in_place_ = true;
      if (r != board_.rank()) bases_[static_cast<std::size_t>(r)] = board_.arena().window(place);
    }
  }

  // Byte `offset` of what `rank` gives, or null when it is in the slots.
  [[nodiscard]] const std::byte* in_place(int rank, std::size_t offset) const {
    const std::byte* const base = bases_[static_cast<std::size_t>(rank)];
    return base == nullptr ? nullptr : base + offset;
  }

  // At the end: nobody may change what others still read.
  Task finish(Call call) const {
    if (!some_in_place_) co_return;
    Published everyone(board_, board_.publish(call));
    co_await everyone;
  }

 private:
  static_assert(sizeof(Place) <= Board::kInline);
  // Below this a slot is in cache anyway, and the last round costs as much as the copy.
  static constexpr std::size_t kWorthMapping = 128 * 1024;

  Board& board_;
  Place mine_;
  bool some_in_place_ = false;
  std::vector<const std::byte*> bases_;
};

// The skeleton of most collectives: `write(k, round)` fills this rank's slot, `read(k, round)` uses
// the others'. A rank publishes one round ahead of the one it reads, so that nobody waits for a
// copy. A round moves a slot, the last one perhaps less.
template <class Write, class Read>
Task run_rounds(Board& board, const Call& call, std::size_t rounds, Write write, Read read) {
  board.writer().begin(call.op, rounds * Board::kSlot);
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
    board.writer().moved(Board::kSlot);
    current = next;
  }
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
  const std::span inputs = board.inputs();
  // A rank whose buffer others can read neither stages its pieces nor publishes its result.
  const bool in_place = receiver < 0 && in.data == out.data;
  Sources sources(board, in.data, in_place ? in.bytes() : 0);
  const BulkCopy copy = copy_for(board, (in_place ? 1 : 2) * in.bytes());

  const auto stage = [&](std::size_t k) {
    if (k == 0) sources.announce();
    if (sources.mine_in_place()) return board.publish(call);
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
    if (k == 0) sources.learn(staged);
    const std::size_t begin = k * Board::kSlot;
    const Slice mine = Slice{0, from.count}.piece(n, static_cast<std::size_t>(me));
    for (std::size_t r = 0; r < n; ++r) {
      const int rank = static_cast<int>(r);
      const std::byte* const there = sources.in_place(rank, begin + mine.begin * item);
      inputs[r] = rank == me ? from.at(mine).data
                  : there    ? there
                             : board.payload(rank, staged, Board::kSlot) + mine.begin * item;
    }
    std::byte* const shared = board.payload(me, board.next(), Board::kSlot);
    if (sources.mine_in_place()) {
      reduce(in.dtype, step, inputs, to.at(mine).data, nullptr, mine.count);
    } else if (!receives) {
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
      const std::byte* const there = sources.in_place(peer, begin + theirs.begin * item);
      if (receives)
        copy(there ? there : board.payload(peer, reduced, Board::kSlot), to.at(theirs).data,
             theirs.count * item);
    }
    board.writer().moved(from.bytes());
    staged = ahead;
    if (k + 2 < rounds) ahead = stage(k + 2);
  }
  co_await sources.finish(call);
}

Task reduce_scatter_rounds(Board& board, Call call, std::vector<View> in, View out,
                           ReduceStep step) {
  const int me = board.rank();
  const Blocks blocks(board, out.dtype);
  const std::span inputs = board.inputs();
  // Blocks that follow one another in memory are one source; mine begins at `before` in each.
  std::size_t total = 0;
  std::size_t before = 0;
  bool contiguous = true;
  for (int r = 0; r < board.size(); ++r) {
    if (r == me) before = total;
    contiguous = contiguous && in[static_cast<std::size_t>(r)].data == in[0].data + total;
    total += in[static_cast<std::size_t>(r)].bytes();
  }
  Sources sources(board, in[0].data, contiguous ? total : 0);
  const auto write = [&](std::size_t k, Board::Round round) {
    if (k == 0) sources.announce();
    if (!sources.mine_in_place()) blocks.put(in, k, round);
  };
  const auto read = [&](std::size_t k, Board::Round round) {
    if (k == 0) sources.learn(round);
    const View mine = window(in[static_cast<std::size_t>(me)], k, blocks.span);
    for (int r = 0; r < board.size(); ++r) {
      const std::byte* const there = sources.in_place(r, before + k * blocks.span * blocks.item);
      inputs[static_cast<std::size_t>(r)] = r == me ? mine.data
                                            : there ? there
                                                    : blocks.at(me, r, round);
    }
    reduce(out.dtype, step, inputs, window(out, k, blocks.span).data, nullptr, mine.count);
  };
  co_await run_rounds(board, call, rounds_for(longest(in), blocks.span), write, read);
  co_await sources.finish(call);
}

Task all_gather_rounds(Board& board, Call call, View in, std::vector<View> outs) {
  const int me = board.rank();
  const std::size_t span = Board::kSlot / size_of(in.dtype);
  Sources sources(board, in.data, in.bytes());
  const BulkCopy copy = copy_for(board, in.bytes() + bytes_of(outs));
  const auto write = [&](std::size_t k, Board::Round round) {
    if (k == 0) sources.announce();
    if (!sources.mine_in_place()) put_window(board, round, in, k, span);
  };
  const auto read = [&](std::size_t k, Board::Round round) {
    if (k == 0) sources.learn(round);
    for (int r = 0; r < board.size(); ++r) {
      if (r == me) continue;
      const View part = window(outs[static_cast<std::size_t>(r)], k, span);
      const std::byte* const there = sources.in_place(r, k * Board::kSlot);
      copy(there ? there : board.payload(r, round, Board::kSlot), part.data, part.bytes());
    }
  };
  copy(in.data, outs[static_cast<std::size_t>(me)].data, in.bytes());
  co_await run_rounds(board, call, rounds_for(longest(outs), span), write, read);
  co_await sources.finish(call);
}

Task all_to_all_rounds(Board& board, Call call, std::vector<View> ins, std::vector<View> outs) {
  const int me = board.rank();
  const Blocks blocks(board, ins[0].dtype);
  const BulkCopy copy = copy_for(board, bytes_of(ins) + bytes_of(outs));
  const auto write = [&](std::size_t k, Board::Round round) { blocks.put(ins, k, round); };
  const auto read = [&](std::size_t k, Board::Round round) {
    for (int r = 0; r < board.size(); ++r) {
      const View part = window(outs[static_cast<std::size_t>(r)], k, blocks.span);
      if (r != me) copy(blocks.at(me, r, round), part.data, part.bytes());
    }
  };
  copy(ins[static_cast<std::size_t>(me)].data, outs[static_cast<std::size_t>(me)].data,
       ins[static_cast<std::size_t>(me)].bytes());
  co_await run_rounds(board, call, rounds_for(longest(ins), blocks.span), write, read);
}

Task broadcast_rounds(Board& board, Call call, View data, int root) {
  const bool sends = board.rank() == root;
  const std::size_t span = Board::kSlot / size_of(data.dtype);
  const BulkCopy copy = copy_for(board, data.bytes());
  const auto write = [&](std::size_t k, Board::Round round) {
    if (sends) put_window(board, round, data, k, span);
  };
  const auto read = [&](std::size_t k, Board::Round round) {
    if (!sends) take_window(board, round, root, data, k, span, copy);
  };
  co_await run_rounds(board, call, rounds_for(data.count, span), write, read);
}

}  // namespace

Task direct_all_reduce(Board& board, Call call, View in, View out, ReduceStep step) {
  if (in.bytes() <= kOneRound) return one_round_all_reduce(board, call, in, out, step);
  return all_reduce_rounds(board, call, in, out, step, /*receiver=*/-1);
}

Task direct_reduce(Board& board, Call call, View in, View out, ReduceStep step, int root) {
  return all_reduce_rounds(board, call, in, out, step, root);
}

Task direct_reduce_scatter(Board& board, Call call, std::vector<View> in, View out,
                           ReduceStep step) {
  if (fits_one_round(bytes_of(in)))
    return one_round_reduce_scatter(board, call, std::move(in), out, step);
  return reduce_scatter_rounds(board, call, std::move(in), out, step);
}

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
  const BulkCopy copy = copy_for(board, in.bytes());
  const auto write = [&](std::size_t k, Board::Round round) {
    if (me != root) put_window(board, round, in, k, span);
  };
  const auto read = [&](std::size_t k, Board::Round round) {
    if (me != root) return;
    for (int r = 0; r < board.size(); ++r)
      if (r != me) take_window(board, round, r, outs[static_cast<std::size_t>(r)], k, span, copy);
  };
  if (me == root) copy(in.data, outs[static_cast<std::size_t>(me)].data, in.bytes());
  co_await run_rounds(board, call, rounds_for(in.count, span), write, read);
}

Task direct_scatter(Board& board, Call call, std::vector<View> ins, View out, int root) {
  const int me = board.rank();
  const Blocks blocks(board, out.dtype);
  const BulkCopy copy = copy_for(board, out.bytes());
  const auto write = [&](std::size_t k, Board::Round round) {
    if (me == root) blocks.put(ins, k, round);
  };
  const auto read = [&](std::size_t k, Board::Round round) {
    const View part = window(out, k, blocks.span);
    if (me != root) copy(blocks.at(me, root, round), part.data, part.bytes());
  };
  if (me == root) copy(ins[static_cast<std::size_t>(me)].data, out.data, out.bytes());
  co_await run_rounds(board, call, rounds_for(out.count, blocks.span), write, read);
}

Task direct_barrier(Board& board, Call call) {
  Published everyone(board, board.publish(call));
  co_await everyone;
}

}  // namespace quoit
