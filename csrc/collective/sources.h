#pragma once
// Where direct collectives read what each rank gives: in its slots; or where it lies, which spares
// a copy: in an arena, mapped by all, or by the kernel (PeerMemory). Ranks need not be alike in
// this: each says in the first round where its bytes are.
#include <vector>

#include "core/copy.h"
#include "engine/task.h"
#include "transport/board.h"

namespace quoit {

class Sources {
 public:
  // What a rank gives: so many bytes, that lie together; its results, if others read those as well,
  // come to `results`.
  struct Given {
    const std::byte* data = nullptr;
    std::size_t bytes = 0;
    const std::byte* results = nullptr;
  };

  // A call begins in which a rank gives about `bytes`, as all ranks say alike. Rank `judge` finds
  // out which way is the fastest. A rank whose bytes do not lie together gives `scattered`.
  Sources(Board& board, Op op, std::size_t bytes, int judge, Given mine);
  static constexpr Given scattered() { return {nullptr, 1, nullptr}; }
  static constexpr Given nothing() { return {}; }

  [[nodiscard]] bool mine_in_place() const { return in_place(base_of(board_.rank())); }

  // Whether all that ranks give lies in place, once it is known: nobody waits for slots then.
  [[nodiscard]] bool all_in_place() const { return all_in_place_; }

  // Whether the kernel has to fetch some of it, which it does better in long stretches. All ranks
  // say the same.
  [[nodiscard]] bool fetches() const { return fetches_; }

  // Before this rank publishes the first round; when it has published all that it can before the
  // others are there; when everybody has published the first round.
  void announce();
  void given() { board_.writer().given(); }
  void learn(Board::Round round);

  // Copies byte `offset` and those behind it of what `rank` gives, or of its results; they are at
  // `slot` unless they are in place.
  void take(int rank, std::size_t offset, const std::byte* slot, std::byte* into, std::size_t bytes,
            const BulkCopy& copy) const;
  void take_results(int rank, std::size_t offset, const std::byte* slot, std::byte* into,
                    std::size_t bytes, const BulkCopy& copy) const;

  // The same bytes to be read once: where they lie, if this process can, else in `scratch`.
  [[nodiscard]] const std::byte* look(int rank, std::size_t offset, const std::byte* slot,
                                      std::byte* scratch, std::size_t bytes) const;

  // At the end: nobody may change what others still read.
  Task finish(Call call);

 private:
  // Below this a slot is in cache anyway, and another round costs as much as the copy.
  static constexpr std::size_t kWorthMapping = 128 * 1024;

  // Where a rank's bytes are.
  struct Base {
    enum class Kind : std::uint8_t { Slots, Nothing, Mapped, Private };
    Kind kind = Kind::Slots;
    std::uint64_t data = 0;  // an address: in this process, or, if private, in the rank's
    std::uint64_t results = 0;
  };
  struct Said;

  static bool in_place(const Base& base) { return base.kind >= Base::Kind::Mapped; }
  [[nodiscard]] const Base& base_of(int rank) const {
    return bases_[static_cast<std::size_t>(rank)];
  }
  void fetch(int rank, std::uint64_t address, const std::byte* slot, std::byte* into,
             std::size_t bytes, const BulkCopy& copy) const;

  Board& board_;
  const int judge_;
  Place arena_;            // of what this rank gives
  bool finishes_ = false;  // some lie in place
  bool all_in_place_ = false;
  bool fetches_ = false;
  std::vector<Base> bases_;
};

}  // namespace quoit
