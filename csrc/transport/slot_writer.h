#pragma once
// Gives bytes to the other ranks of a host in the way that is faster on this machine just now.
//
// A plain store into a slot first fetches the line out of the cache of whoever read it last.
// Between cores that share a last-level cache that is cheap; between others it is the slowest step
// of a collective, and non-temporal stores, which send the line to memory without fetching it, are
// twice as fast. Or nothing is put into slots, and the others have the kernel copy it from where it
// lies (PeerMemory): one copy in place of two, but a slow one on some machines. So the ways are
// timed, call by call. One rank times and decides for all; the others hear in one call how they go
// in the next one of its kind.
#include <array>
#include <cstddef>
#include <cstdint>

#include "core/call.h"
#include "core/clock.h"
#include "transport/trials.h"

namespace quoit {

class SlotWriter {
 public:
  // Shorter calls stay in cache: no streaming; and are not worth another round: no way but slots.
  static constexpr std::size_t kWorthStreaming = 512 * 1024;
  static constexpr std::size_t kWorthReading = 32 * 1024;
  static constexpr std::size_t kWorthReadingTwice = 2 * 1024 * 1024;

  static constexpr std::size_t kLeavesCaches = 8 * 1024 * 1024;

  enum class Way : std::uint8_t { Plain, Streaming, InPlace };
  static constexpr std::size_t kWays = 3;

  // A call begins that gives `bytes`, as all ranks say alike.
  void begin(Op op, std::size_t bytes);

  // On the rank that decides, once in a call: how the next call of its kind shall go, which all
  // ranks then agree on. `readable`: the others can read what lies anywhere. Times this call.
  Way decide(bool readable);
  void agree(Way next) { kind_->way = next; }

  // All is given that can be before the others are there; now they are; the call is over. What lies
  // between the first two is not counted.
  void given() {
    if (timed_) spent_ = Clock::now() - since_;
  }
  void everyone_came() {
    if (timed_) since_ = Clock::now();
  }
  void end() {
    if (timed_) record(Seconds(spent_ + (Clock::now() - since_)).count());
  }

  [[nodiscard]] Way way() const { return way_; }

  // Copies into a slot (unless they are the same memory); other ranks may read it once a flag is
  // published by this thread.
  void put(const std::byte* from, std::byte* slot, std::size_t bytes) const;

  // What end() comes to: the call took so many seconds.
  void record(double seconds);

 private:
  static constexpr std::size_t kFirstSize = 16 * 1024;
  static constexpr std::size_t kSizes = 14;  // the last one is for all from 128 MiB on

  struct Kind {
    Trials<kWays> trials;
    Way way = Way::Plain;  // of its next call
  };

  std::array<Kind, kOps * kSizes> kinds_{};
  Kind* kind_ = nullptr;  // of the call under way
  Op op_ = Op::Barrier;
  std::size_t bytes_ = 0;
  Way way_ = Way::Plain;
  bool timed_ = false;
  Clock::time_point since_{};
  Clock::duration spent_{};
};

}  // namespace quoit
