#include "collective/sources.h"

#include <algorithm>
#include <cstring>

namespace quoit {
namespace {

std::uint64_t address_of(const std::byte* data) { return reinterpret_cast<std::uintptr_t>(data); }

const std::byte* at_address(std::uint64_t address) {
  return reinterpret_cast<const std::byte*>(address);  // NOLINT(performance-no-int-to-ptr)
}

}  // namespace

// What rides beside the flag of the first round.
struct Sources::Said {
  std::int32_t pid;
  std::int32_t fd;
  std::uint32_t serial;
  Base::Kind kind;
  SlotWriter::Way next;  // by the judge: how the next call goes
  std::uint64_t size;    // of the arena's mapping; where it is private, the results' address
  std::uint64_t offset;  // in that mapping; where it is private, the address

  [[nodiscard]] Place place() const { return {pid, fd, serial, size, offset}; }
};

Sources::Sources(Board& board, Op op, std::size_t bytes, int judge, Given mine)
    : board_(board), judge_(judge), bases_(static_cast<std::size_t>(board.size())) {
  SlotWriter& writer = board.writer();
  PeerMemory& peers = board.peers();
  writer.begin(op, bytes);
  Base& base = bases_[static_cast<std::size_t>(board.rank())];
  if (mine.bytes == 0) {
    base.kind = Base::Kind::Nothing;
    return;
  }
  if (mine.data == nullptr) return;
  if (bytes >= kWorthMapping && (mine.results == nullptr || mine.results == mine.data))
    arena_ = board.arena().place_of(mine.data, mine.bytes);
  const bool wanted = writer.way() == SlotWriter::Way::InPlace || peers.always();
  if (arena_.shared())
    base.kind = Base::Kind::Mapped;
  else if (wanted && peers.exposes(mine.data, mine.bytes))
    base = {Base::Kind::Private, address_of(mine.data), address_of(mine.results)};
}

void Sources::announce() {
  const int me = board_.rank();
  const Base& mine = base_of(me);
  Said said{arena_.pid, arena_.fd, arena_.serial, mine.kind, {}, arena_.size, arena_.offset};
  if (mine.kind == Base::Kind::Private) {
    said.offset = mine.data;
    said.size = mine.results;
  }
  const bool readable = board_.peers().usable();  // all ask, as each has to find out for itself
  if (me == judge_) said.next = board_.writer().decide(readable);
  static_assert(sizeof said <= Board::kInline);
  std::memcpy(board_.payload(me, board_.next(), sizeof said), &said, sizeof said);
}

void Sources::learn(Board::Round round) {
  board_.writer().everyone_came();
  bool all = true;
  for (int r = 0; r < board_.size(); ++r) {
    Said said;
    std::memcpy(&said, board_.payload(r, round, sizeof said), sizeof said);
    if (r == judge_) board_.writer().agree(said.next);
    finishes_ |= said.kind >= Base::Kind::Mapped;
    fetches_ |= said.kind == Base::Kind::Private;
    all &= said.kind != Base::Kind::Slots;
    if (r == board_.rank()) continue;
    Base& base = bases_[static_cast<std::size_t>(r)];
    base.kind = said.kind;
    if (said.kind == Base::Kind::Private) {
      base.data = said.offset;
      base.results = said.size;
    } else if (said.kind == Base::Kind::Mapped) {
      base.data = base.results = address_of(board_.arena().window(said.place()));
    }
  }
  all_in_place_ = all && finishes_;
}

void Sources::fetch(int rank, std::uint64_t address, const std::byte* slot, std::byte* into,
                    std::size_t bytes, const BulkCopy& copy) const {
  if (bytes == 0) return;
  switch (base_of(rank).kind) {
    case Base::Kind::Private:
      return board_.peers().read(rank, address, into, bytes);
    case Base::Kind::Mapped:
      return copy(at_address(address), into, bytes);
    default:
      return copy(slot, into, bytes);
  }
}

void Sources::take(int rank, std::size_t offset, const std::byte* slot, std::byte* into,
                   std::size_t bytes, const BulkCopy& copy) const {
  fetch(rank, base_of(rank).data + offset, slot, into, bytes, copy);
}

void Sources::take_results(int rank, std::size_t offset, const std::byte* slot, std::byte* into,
                           std::size_t bytes, const BulkCopy& copy) const {
  fetch(rank, base_of(rank).results + offset, slot, into, bytes, copy);
}

const std::byte* Sources::look(int rank, std::size_t offset, const std::byte* slot,
                               std::byte* scratch, std::size_t bytes) const {
  const Base& base = base_of(rank);
  if (base.kind == Base::Kind::Mapped) return at_address(base.data + offset);
  if (base.kind != Base::Kind::Private || bytes == 0) return slot;
  board_.peers().read(rank, base.data + offset, scratch, bytes);
  return scratch;
}

Task Sources::finish(Call call) {
  if (finishes_) {
    Published everyone(board_, board_.publish(call));
    co_await everyone;
  }
  board_.writer().end();
}

}  // namespace quoit
