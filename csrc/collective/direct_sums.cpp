// The direct collectives that add up: all_reduce, reduce and reduce_scatter.
#include "collective/direct.h"
#include "collective/one_round.h"
#include "collective/rounds.h"

namespace quoit {
namespace {

// Adds up `mine`, this rank's part of one or more rounds, out of what all give, into `to`;
// `behind(r)` is where rank r's lies that gives it in its slot. What has to be fetched first is
// added up while the core's own cache holds it.
template <class Behind>
void reduce_window(Board& board, const Sources& sources, const ReduceStep& step, View mine,
                   std::size_t offset, Behind behind, std::byte* to, std::byte* also) {
  const std::span inputs = board.inputs();
  const std::size_t span = block_span(Board::kFetched, board.size(), kCacheLine, mine.dtype);
  for (std::size_t k = 0; k < rounds_for(mine.count, span); ++k) {
    const View part = window(mine, k, span);
    const std::size_t at = k * span * size_of(mine.dtype);
    std::byte* scratch = board.scratch();
    for (int r = 0; r < board.size(); ++r) {
      const std::byte*& input = inputs[static_cast<std::size_t>(r)];
      if (r == board.rank()) {
        input = part.data;
        continue;
      }
      input = sources.look(r, offset + at, behind(r) + at, scratch, part.bytes());
      if (input == scratch) scratch += part.bytes();
    }
    reduce(mine.dtype, step, inputs, to + at, also != nullptr ? also + at : nullptr, part.count);
  }
}

// An all_reduce cut into rounds of so many bytes: this rank's piece of round k, and those of
// others.
struct Pieces {
  Pieces(const Board& board, View in, View out, std::size_t round)
      : in(in),
        out(out),
        round(round),
        n(static_cast<std::size_t>(board.size())),
        me(board.rank()) {}

  [[nodiscard]] std::size_t span() const { return round / size_of(in.dtype); }
  [[nodiscard]] std::size_t rounds() const { return rounds_for(in.count, span()); }
  [[nodiscard]] Slice of(int rank, std::size_t k) const {
    return Slice{0, window(in, k, span()).count}.piece(n, static_cast<std::size_t>(rank));
  }
  [[nodiscard]] View from(const Slice& piece, std::size_t k) const {
    return window(in, k, span()).at(piece);
  }
  [[nodiscard]] View to(const Slice& piece, std::size_t k) const {
    return window(out, k, span()).at(piece);
  }
  // Of a piece of round k, in bytes, from the beginning of the buffer, and of its slot.
  [[nodiscard]] std::size_t offset(const Slice& piece, std::size_t k) const {
    return k * round + in_slot(piece);
  }
  [[nodiscard]] std::size_t in_slot(const Slice& piece) const {
    return piece.begin * size_of(in.dtype);
  }
  // Which rank's piece is read as the d-th.
  [[nodiscard]] int peer(std::size_t d) const {
    return static_cast<int>((static_cast<std::size_t>(me) + d) % n);
  }

  View in, out;
  std::size_t round;
  std::size_t n;
  int me;
};

// Where all lies in place: add up the own piece, say so, and fetch what the others have added up in
// the round before.
Task all_reduce_in_place(Board& board, Call call, Pieces pieces, ReduceStep step,
                         const Sources& sources, BulkCopy copy) {
  const auto no_slot = [&](int) { return board.scratch(); };
  Board::Round before = 0;
  for (std::size_t k = 0; k <= pieces.rounds(); ++k) {
    Board::Round reduced = before;
    if (k < pieces.rounds()) {
      const Slice mine = pieces.of(pieces.me, k);
      reduce_window(board, sources, step, pieces.from(mine, k), pieces.offset(mine, k), no_slot,
                    pieces.to(mine, k).data, nullptr);
      reduced = board.publish(call);
    }
    for (std::size_t d = 1; k > 0 && d < pieces.n; ++d) {
      const int peer = pieces.peer(d);
      Published result(board, before, peer, peer + 1);
      co_await result;
      const Slice theirs = pieces.of(peer, k - 1);
      const View to = pieces.to(theirs, k - 1);
      sources.take_results(peer, pieces.offset(theirs, k - 1), nullptr, to.data, to.bytes(), copy);
    }
    before = reduced;
  }
}

// Two rounds for every span of the buffer: publish the pieces that others own; reduce the own piece
// out of all slots, straight into `out` and into the own slot; copy the others' results. The pieces
// of the next span are published before this one is reduced. Only `receiver` gets the results,
// unless it is negative.
Task all_reduce_rounds(Board& board, Call call, View in, View out, ReduceStep step, int receiver) {
  const Pieces pieces(board, in, out, Board::kSlot);
  const int me = board.rank();
  const bool receives = receiver < 0 || receiver == me;
  const BulkCopy copy = copy_for(board, (in.data == out.data ? 1 : 2) * in.bytes());
  SlotWriter& writer = board.writer();
  // A rank whose buffers others can read neither stages its pieces nor publishes its result.
  Sources sources(
      board, call.op, in.bytes(), /*judge=*/0,
      receiver < 0 ? Sources::Given{in.data, in.bytes(), out.data} : Sources::scattered());

  const auto stage = [&](std::size_t k) {
    if (k == 0) sources.announce();
    std::byte* const slot = board.payload(me, board.next(), Board::kSlot);
    for (int r = 0; r < board.size() && !sources.mine_in_place(); ++r) {
      if (r == me) continue;
      const Slice piece = pieces.of(r, k);
      const View from = pieces.from(piece, k);
      writer.put(from.data, slot + pieces.in_slot(piece), from.bytes());
    }
    return board.publish(call);
  };

  Board::Round staged = stage(0);
  Board::Round ahead = pieces.rounds() > 1 ? stage(1) : staged;
  sources.given();
  for (std::size_t k = 0; k < pieces.rounds(); ++k) {
    Published contributions(board, staged);
    co_await contributions;
    if (k == 0) sources.learn(staged);
    if (sources.all_in_place()) {
      // Short rounds where no kernel call has to pay off: the ranks may be in the background of
      // programs that compute (DDP), and whoever waits long for another's round goes to sleep.
      const std::size_t round = (sources.fetches() ? Board::kStretch : 1) * Board::kSlot;
      co_await all_reduce_in_place(board, call, {board, in, out, round}, step, sources, copy);
      break;
    }
    const Slice mine = pieces.of(me, k);
    const View to = pieces.to(mine, k);
    std::byte* const shared = board.payload(me, board.next(), Board::kSlot);
    const bool puts =
        receives && !sources.mine_in_place() && writer.way() != SlotWriter::Way::Plain;
    const bool also = receives && !sources.mine_in_place() && !puts;
    const auto behind = [&](int r) {
      return board.payload(r, staged, Board::kSlot) + pieces.in_slot(mine);
    };
    reduce_window(board, sources, step, pieces.from(mine, k), pieces.offset(mine, k), behind,
                  receives ? to.data : shared, also ? shared : nullptr);
    if (puts) writer.put(to.data, shared, to.bytes());
    const Board::Round reduced = board.publish(call);
    for (std::size_t d = 1; d < pieces.n; ++d) {
      const int peer = pieces.peer(d);
      Published result(board, reduced, peer, peer + 1);
      co_await result;
      if (!receives) continue;
      const Slice theirs = pieces.of(peer, k);
      const View into = pieces.to(theirs, k);
      sources.take_results(peer, pieces.offset(theirs, k),
                           board.payload(peer, reduced, Board::kSlot), into.data, into.bytes(),
                           copy);
    }
    staged = ahead;
    if (k + 2 < pieces.rounds()) ahead = stage(k + 2);
  }
  co_await sources.finish(call);
}

Task reduce_scatter_rounds(Board& board, Call call, std::vector<View> in, View out,
                           ReduceStep step) {
  const int me = board.rank();
  const Blocks blocks(board, out.dtype);
  const std::size_t before = bytes_before(in, me);  // in each rank's
  Sources sources(board, call.op, bytes_of(in), /*judge=*/0, given(in, me, {out}));
  const auto write = [&](std::size_t k, Board::Round round) { blocks.put(in, k, round); };
  const auto read = [&](Rounds rounds, Board::Round round) {
    reduce_window(
        board, sources, step, window(in[static_cast<std::size_t>(me)], rounds, blocks.span),
        before + rounds.first * blocks.span * blocks.item,
        [&](int r) { return blocks.at(me, r, round); }, window(out, rounds, blocks.span).data,
        nullptr);
  };
  co_await run_rounds(board, call, sources, rounds_for(longest(in), blocks.span), write, read,
                      [] {});
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

}  // namespace quoit
