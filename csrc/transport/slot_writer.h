#pragma once
// Puts bytes into slots that other ranks read, in the way that is faster on this machine just now.
//
// A plain store first fetches the line out of the cache of whoever read it last. Between cores that
// share a last-level cache that is cheap; between others it is the slowest step of a collective,
// and non-temporal stores, which send the line to memory without fetching it, are twice as fast.
// Where ranks run is not known and changes when they migrate, so both ways are timed: every trial
// of about kTrial bytes uses one of them, and kProbe trials in kCycle the slower one: several in a
// row, as the first finds the slots in the caches where the other way left them. Ranks make the
// same calls, hence the same trials at the same time; when they disagree nothing but time is lost.
#include <array>
#include <cstddef>
#include <cstdint>

#include "core/call.h"
#include "core/clock.h"

namespace quoit {

class SlotWriter {
 public:
  static constexpr std::size_t kSmall = 512 * 1024;  // shorter calls stay in cache: plain stores
  static constexpr std::size_t kTrial = 2 * 1024 * 1024;
  static constexpr unsigned kProbe = 4;
  static constexpr unsigned kCycle = 128;
  static constexpr std::size_t kSizes = 9;  // the last one is for all from 128 MiB on

  enum class Way : std::uint8_t { Plain, Streaming };

  // A call that moves `bytes` through the slots begins. Kinds of collectives and sizes (from one
  // power of two to the next) are timed apart: what fits a cache differs from what does not.
  void begin(Op op, std::size_t bytes);

  // Copies into a slot (unless they are the same memory); other ranks may read it once a flag is
  // published by this thread.
  void put(const std::byte* from, std::byte* slot, std::size_t bytes) const;

  [[nodiscard]] Way way() const { return way_; }

  // A round of the call ended that moved `bytes`.
  void moved(std::size_t bytes) {
    if (timed_) record(bytes, Clock::now());
  }
  void record(std::size_t bytes, Clock::time_point now);

 private:
  // What was found out about one kind of call.
  struct Experience {
    std::array<double, 2> cost{};  // by Way, seconds per byte
    unsigned trials = 0;
  };
  void choose();

  Way way_ = Way::Plain;
  bool timed_ = false;
  std::array<Experience, kOps * kSizes> experiences_{};
  Experience* kind_ = nullptr;  // of the call under way
  std::size_t left_ = 0;        // bytes that the call has yet to move
  std::size_t measured_ = 0;    // bytes of the trial under way
  Clock::time_point since_{};   // when it began: at the end of its first round, when all are there
};

}  // namespace quoit
