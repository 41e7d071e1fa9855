#pragma once
// What the ranks of a host tell each other about their accelerators, in the memory of their group.
// Nobody has to come: each rank tells when it first uses a device there, and others look.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/types.h"
#include "transport/bell.h"

namespace quoit {

// What a rank found of what another one offers.
enum class Found : std::uint8_t {
  Unknown,
  Met,      // it uses memory that came with messages, and the other must keep it
  Opened,   // it uses all that the other offers, likewise
  Refused,  // it cannot
  Kept,     // it cannot, but uses memory that came with messages
  Closed,   // it no longer uses it
};

class Introductions {
 public:
  static constexpr std::size_t kMost = 1000;  // bytes that a rank tells

  static std::size_t bytes(int members);

  // `memory` is zeroed by whoever created it, and aligned to a cache line.
  Introductions(std::byte* memory, int mine, std::vector<Bell*> bells);

  [[nodiscard]] int size() const { return static_cast<int>(bells_.size()); }
  [[nodiscard]] int rank() const { return mine_; }

  // Once; at most kMost bytes.
  void tell(ConstBytes words);

  // What a rank has told, or nothing yet.
  [[nodiscard]] std::optional<ConstBytes> told(int member) const;

  // What this rank found of `member`; what `finder` found of `member`. Nobody waits for a Closed,
  // which may therefore come when the bells are gone.
  void found(int member, Found what);
  [[nodiscard]] Found found(int finder, int member) const;

 private:
  struct Member;

  [[nodiscard]] Member& member(int rank) const;
  void ring_all() const;

  std::byte* memory_;
  int mine_;
  std::vector<Bell*> bells_;
};

}  // namespace quoit
