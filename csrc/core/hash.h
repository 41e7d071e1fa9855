#pragma once
// FNV-1a (Fowler, Noll, Vo), a word at a time: to compare what ranks hold, not against malice.
#include <array>
#include <cstdint>
#include <cstring>

#include "core/types.h"

namespace quoit {

class Hash {
 public:
  void take(std::uint64_t word) { state_ = (state_ ^ word) * 0x100000001b3; }

  [[nodiscard]] std::uint64_t value() const { return state_; }

  // Its upper bits, which depend on everything.
  [[nodiscard]] std::array<std::uint8_t, 4> digest() const {
    std::array<std::uint8_t, 4> digest;
    for (std::size_t i = 0; i < digest.size(); ++i)
      digest[i] = static_cast<std::uint8_t>(state_ >> (32 + 8 * i));
    return digest;
  }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325;
};

// Of memory; in eight lanes, because each step waits for the one before it.
inline std::uint64_t hash_of(ConstBytes bytes) {
  constexpr std::size_t kLanes = 8;
  std::array<Hash, kLanes> lanes;
  for (std::size_t i = 0; i < kLanes; ++i) lanes[i].take(i);
  std::size_t lane = 0;
  for (std::size_t done = 0; done < bytes.size(); done += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + done, std::min(sizeof word, bytes.size() - done));
    lanes[lane++ % kLanes].take(word);
  }
  Hash all;
  for (const Hash& one : lanes) {
    all.take(one.value());
    all.take(one.value() >> 32);  // a difference in high bits reaches the low ones
  }
  all.take(bytes.size());
  return all.value();
}

}  // namespace quoit
