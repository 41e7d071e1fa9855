#pragma once
// How a sleeping process is woken: one futex word per process, in memory that its peers share.
#include <atomic>
#include <chrono>
#include <cstdint>

namespace quoit {

struct alignas(64) Bell {
  std::atomic<std::uint32_t> rings{0};
  std::atomic<std::uint32_t> sleepers{0};
};

// Call after publishing something the owner of `bell` may be waiting for. Costs one fence, and a
// system call only when somebody sleeps.
void ring(Bell& bell);

// The same in two steps, for several bells.
void full_fence();
void ring_after_fence(Bell& bell);

// One sleep: announce it, look once more whether there is something to do, then sleep.
class Nap {
 public:
  explicit Nap(Bell& bell);
  ~Nap();
  Nap(const Nap&) = delete;
  Nap& operator=(const Nap&) = delete;

  // Returns at the next ring since construction, or after `longest`.
  void sleep(std::chrono::nanoseconds longest);

 private:
  Bell& bell_;
  std::uint32_t seen_;
};

}  // namespace quoit
