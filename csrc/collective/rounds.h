#pragma once
// What direct collectives are made of: rounds, in which each rank fills its slot and uses the
// others', or reads what they give where it lies.
#include <algorithm>
#include <vector>

#include "collective/sources.h"
#include "collective/windows.h"
#include "engine/breath.h"

namespace quoit {

// Puts round `k` of `view` into this rank's slot.
inline void put_window(Board& board, Board::Round round, View view, std::size_t k,
                       std::size_t span) {
  const View part = window(view, k, span);
  board.writer().put(part.data, board.payload(board.rank(), round, Board::kSlot), part.bytes());
}

// For a collective in which each rank reads and writes so many bytes of its caller's.
inline BulkCopy copy_for(const Board& board, std::size_t bytes) {
  return BulkCopy(bytes * static_cast<std::size_t>(board.size()));
}

inline bool overlap(View a, View b) {
  return a.count > 0 && b.count > 0 && a.data < b.data + b.bytes() && b.data < a.data + a.bytes();
}

// What a rank gives whose parts, one for each rank, others may read where they lie: parts that lie
// together, and of which those for others are not overwritten by this rank's results.
inline Sources::Given given(const std::vector<View>& parts, int me,
                            const std::vector<View>& results) {
  for (std::size_t r = 0; r < parts.size(); ++r) {
    if (r > 0 && parts[r].data != parts[r - 1].data + parts[r - 1].bytes())
      return Sources::scattered();
    for (const View& result : results)
      if (static_cast<int>(r) != me && overlap(parts[r], result)) return Sources::scattered();
  }
  return {parts[0].data, bytes_of(parts)};
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

// The skeleton of most collectives: `write(k, round)` fills this rank's slot, `read(rounds, round)`
// uses the others'; `meanwhile` does what needs nobody else. A rank publishes one round ahead of
// the one it reads, so that nobody waits for a copy. A round moves a slot, the last one perhaps
// less. Where all lies in place, nothing has to be published but that it was read, and several
// rounds are read as one.
template <class Write, class Read, class Meanwhile>
Task run_rounds(Board& board, Call call, Sources& sources, std::size_t rounds, Write write,
                Read read, Meanwhile meanwhile) {
  const auto publish = [&](std::size_t k) {
    if (k == 0) sources.announce();
    if (!sources.mine_in_place()) write(k, board.next());
    return board.publish(call);
  };
  Board::Round current = publish(0);
  Board::Round next = rounds > 1 ? publish(1) : current;
  meanwhile();
  sources.given();
  {
    Published everyone(board, current);
    co_await everyone;
  }
  sources.learn(current);
  for (std::size_t k = 0; sources.all_in_place() && k < rounds; k += Board::kStretch) {
    if (k > 0) co_await Breath();
    read(Rounds{k, std::min(Board::kStretch, rounds - k)}, current);
  }
  for (std::size_t k = 0; !sources.all_in_place() && k < rounds; ++k) {
    if (k > 0) {
      Published everyone(board, current);
      co_await everyone;
    }
    read(Rounds{k, 1}, current);
    current = next;
    if (k + 2 < rounds) next = publish(k + 2);
  }
  co_await sources.finish(call);
}

}  // namespace quoit
