#include "transport/introductions.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <utility>

namespace quoit {
namespace {

constexpr std::size_t kLine = 64;

std::size_t bytes_of_findings(int members) {
  return ceil_div(static_cast<std::size_t>(members), kLine) * kLine;
}

}  // namespace

// What it found of each member follows.
struct alignas(kLine) Introductions::Member {
  std::atomic<std::uint32_t> told;  // bytes and 1, so that zeroed memory means "nothing yet"
  std::array<std::byte, kMost> words;

  std::atomic<Found>* findings() { return reinterpret_cast<std::atomic<Found>*>(this + 1); }
};

std::size_t Introductions::bytes(int members) {
  return static_cast<std::size_t>(members) * (sizeof(Member) + bytes_of_findings(members));
}

Introductions::Introductions(std::byte* memory, int mine, std::vector<Bell*> bells)
    : memory_(memory), mine_(mine), bells_(std::move(bells)) {}

Introductions::Member& Introductions::member(int rank) const {
  const std::size_t each = sizeof(Member) + bytes_of_findings(size());
  return *reinterpret_cast<Member*>(memory_ + static_cast<std::size_t>(rank) * each);
}

void Introductions::tell(ConstBytes words) {
  Member& me = member(mine_);
  const std::size_t count = std::min(words.size(), kMost);
  std::memcpy(me.words.data(), words.data(), count);
  me.told.store(static_cast<std::uint32_t>(count) + 1, std::memory_order_release);
  ring_all();
}

std::optional<ConstBytes> Introductions::told(int rank) const {
  const Member& one = member(rank);
  const std::uint32_t told = one.told.load(std::memory_order_acquire);
  if (told == 0) return std::nullopt;
  return ConstBytes(one.words.data(), told - 1);
}

void Introductions::found(int rank, Found what) {
  member(mine_).findings()[rank].store(what, std::memory_order_release);
  if (what != Found::Closed) ring_all();
}

Found Introductions::found(int finder, int rank) const {
  return member(finder).findings()[rank].load(std::memory_order_acquire);
}

void Introductions::ring_all() const {
  for (Bell* const bell : bells_) ring(*bell);
}

}  // namespace quoit
