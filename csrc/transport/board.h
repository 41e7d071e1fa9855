#pragma once
// The board: how ranks that share memory talk to all others at once. Direct collectives are made of
// rounds: publish into your own slot, wait until the others have published, read their slots.
//
// Every rank publishes in every round and waits for every other, and is never more than one round
// ahead of what it has read: it publishes round j only after it has read round j - 2. So when it
// does publish j it knows that all have published j - 2, hence read j - 4: with kDepth = 4 slots
// per rank none is overwritten too early, and no second flag is needed.
#include <atomic>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "core/call.h"
#include "core/pollable.h"
#include "transport/arena.h"
#include "transport/bell.h"
#include "transport/peer_memory.h"
#include "transport/slot_writer.h"

namespace quoit {

class Board {
 public:
  using Round = std::uint64_t;
  static constexpr std::size_t kDepth = 4;
  static constexpr std::size_t kSlot = 128 * 1024;  // bytes; stays in cache while it is passed on
  // So many slots' worth are read as one where nothing goes through slots: a megabyte, what a
  // core's own cache holds, and a tenth of a millisecond.
  static constexpr std::size_t kStretch = 8;
  static constexpr std::size_t kFetched = 2 * kSlot;  // and so many bytes are added up at a time
  static constexpr std::size_t kInline = 32;  // bytes that travel in the flag's own cache line

  static std::size_t bytes(int size);

  // `memory` is zeroed, aligned to a page, of `bytes(size)` bytes, and outlives the board. Ranks of
  // the board count from 0; names[r] is rank r's number in the group, and bells[r] wakes it.
  Board(std::byte* memory, int rank, std::vector<int> names, std::vector<Bell*> bells);

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int size() const { return static_cast<int>(bells_.size()); }

  [[nodiscard]] int name(int rank) const { return names_[static_cast<std::size_t>(rank)]; }

  // Where `rank` puts (or has put) `bytes` of data in `round`; at most kSlot of them.
  [[nodiscard]] std::byte* payload(int rank, Round round, std::size_t bytes) const {
    return bytes <= kInline ? line(rank, round).small : slot(rank, round);
  }

  // Room for a pointer to what each rank gives, for one reduction; free again at the next wait.
  [[nodiscard]] std::span<const std::byte*> inputs() { return inputs_; }

  // Fills this rank's slots.
  [[nodiscard]] SlotWriter& writer() { return writer_; }

  // Where the tensors are that ranks share, and how they read each other's; set once, before the
  // first round.
  void use(Arena& arena) { arena_ = &arena; }
  void use(PeerMemory& peers) { peers_ = &peers; }
  [[nodiscard]] Arena& arena() const { return *arena_; }
  [[nodiscard]] PeerMemory& peers() const { return *peers_; }

  // Room for kFetched bytes of what the others give to one reduction, of this rank's own.
  [[nodiscard]] std::byte* scratch();

  // The round this rank publishes next.
  [[nodiscard]] Round next() const { return next_; }

  // Publishes this rank's part of round next(); returns its number. Ranks that sleep do not hear of
  // it before ring_peers(): the fence that this takes would have to wait for the published line.
  Round publish(const Call& call);
  void ring_peers();

  [[nodiscard]] bool published(int rank, Round round) const {
    return line(rank, round).published.load(std::memory_order_acquire) == round + 1;
  }
  [[nodiscard]] const Call& call(int rank, Round round) const { return line(rank, round).call; }

 private:
  struct alignas(64) Line {
    std::atomic<Round> published;  // round number + 1, so that zeroed memory means "nothing yet"
    Call call;
    std::byte small[kInline];
  };
  static_assert(sizeof(Line) == 64);

  [[nodiscard]] Line& line(int rank, Round round) const {
    return lines_[static_cast<std::size_t>(rank) * kDepth + round % kDepth];
  }
  [[nodiscard]] std::byte* slot(int rank, Round round) const {
    return slots_ + (static_cast<std::size_t>(rank) * kDepth + round % kDepth) * kSlot;
  }

  Line* lines_;
  std::byte* slots_;
  int rank_;
  std::vector<int> names_;
  std::vector<Bell*> bells_;
  std::vector<const std::byte*> inputs_;
  Round next_ = 0;
  Round rung_ = 0;  // rounds that ring_peers() was called for
  SlotWriter writer_;
  Arena* arena_ = nullptr;
  PeerMemory* peers_ = nullptr;
  std::unique_ptr<std::byte[]> scratch_;
};

// Waits until ranks [first, last) have published `round`, and checks that they make the same call.
class Published final : public Pollable {
 public:
  Published(const Board& board, Board::Round round, int first, int last)
      : board_(board), round_(round), rank_(first), last_(last) {}
  Published(const Board& board, Board::Round round) : Published(board, round, 0, board.size()) {}

  bool ready() override;
  [[nodiscard]] bool awaits(int rank) const override;
  [[nodiscard]] std::string awaited() const override;

  // Call when ready; throws UsageError when a rank makes another call.
  void result() const;

 private:
  const Board& board_;
  Board::Round round_;
  int rank_;
  int last_;
};

}  // namespace quoit
