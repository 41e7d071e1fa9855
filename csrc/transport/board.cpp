#include "transport/board.h"

#include <utility>

#include "core/error.h"

namespace quoit {
namespace {

constexpr std::size_t kPage = 4096;

std::size_t line_bytes(int size) {
  return ceil_div(static_cast<std::size_t>(size) * Board::kDepth * 64, kPage) * kPage;
}

}  // namespace

std::size_t Board::bytes(int size) {
  return line_bytes(size) + static_cast<std::size_t>(size) * kDepth * kSlot;
}

Board::Board(std::byte* memory, int rank, std::vector<int> names, std::vector<Bell*> bells)
    : lines_(reinterpret_cast<Line*>(memory)),
      slots_(memory + line_bytes(static_cast<int>(bells.size()))),
      rank_(rank),
      names_(std::move(names)),
      bells_(std::move(bells)),
      inputs_(bells_.size()) {}

std::byte* Board::scratch() {
  if (!scratch_) scratch_ = std::make_unique_for_overwrite<std::byte[]>(2 * kFetched);
  return scratch_.get();
}

Board::Round Board::publish(const Call& call) {
  const Round round = next_++;
  Line& mine = line(rank_, round);
  mine.call = call;
  mine.published.store(round + 1, std::memory_order_release);
  return round;
}

void Board::ring_peers() {
  if (std::exchange(rung_, next_) == next_) return;
  full_fence();
  for (int peer = 0; peer < size(); ++peer)
    if (peer != rank_) ring_after_fence(*bells_[static_cast<std::size_t>(peer)]);
}

bool Published::ready() {
  for (; rank_ < last_; ++rank_) {
    if (!board_.published(rank_, round_)) return false;
    if (board_.call(rank_, round_) != board_.call(board_.rank(), round_)) return true;
  }
  return true;
}

bool Published::awaits(int rank) const {
  for (int r = rank_; r < last_; ++r)
    if (board_.name(r) == rank && !board_.published(r, round_)) return true;
  return false;
}

std::string Published::awaited() const {
  std::string who;
  for (int rank = rank_; rank < last_; ++rank)
    if (!board_.published(rank, round_))
      who += text(who.empty() ? "rank " : ", ", board_.name(rank));
  return who;
}

void Published::result() const {
  QUOIT_CHECK(rank_ == last_, UsageError,
              describe_mismatch(board_.name(rank_), board_.call(rank_, round_),
                                board_.call(board_.rank(), round_)));
}

}  // namespace quoit
