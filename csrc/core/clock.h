#pragma once
// Time: one monotonic clock, and deadlines on it.
#include <algorithm>
#include <chrono>

namespace quoit {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

class Deadline {
 public:
  // Never: waits that somebody else bounds.
  Deadline() = default;

  // `timeout` from now; zero or less means "already passed".
  static Deadline after(Seconds timeout) {
    Deadline deadline;
    // A year is "for ever", and keeps the arithmetic of the clock from overflowing.
    constexpr Seconds kLongest{365.0 * 24 * 3600};
    deadline.at_ =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(std::min(timeout, kLongest));
    return deadline;
  }

  [[nodiscard]] bool passed() const { return at_ != kNever && Clock::now() >= at_; }

  // Time left, never negative.
  [[nodiscard]] Seconds left() const {
    return at_ == kNever ? Seconds::max() : std::max(Seconds{0}, Seconds(at_ - Clock::now()));
  }

  friend bool operator<(const Deadline& a, const Deadline& b) { return a.at_ < b.at_; }

 private:
  static constexpr Clock::time_point kNever = Clock::time_point::max();
  Clock::time_point at_ = kNever;
};

}  // namespace quoit
