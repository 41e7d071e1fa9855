#include "transport/bell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace quoit {
namespace {

long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value,
           const timespec* timeout) {
  return ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), operation, value, timeout,
                   nullptr, 0);
}

}  // namespace

// Orders "publish, then look for sleepers" against "announce the sleep, then look for work": one of
// the two sides sees the other. The data itself is ordered by its own release and acquire.
void full_fence() {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wtsan"
  std::atomic_thread_fence(std::memory_order_seq_cst);
#pragma GCC diagnostic pop
}

void ring(Bell& bell) {
  full_fence();
  ring_after_fence(bell);
}

void ring_after_fence(Bell& bell) {
  if (bell.sleepers.load(std::memory_order_relaxed) == 0) return;
  bell.rings.fetch_add(1, std::memory_order_release);
  futex(bell.rings, FUTEX_WAKE, INT_MAX, nullptr);
}

Nap::Nap(Bell& bell) : bell_(bell), seen_(bell.rings.load(std::memory_order_acquire)) {
  bell.sleepers.fetch_add(1, std::memory_order_relaxed);
  full_fence();
}

Nap::~Nap() { bell_.sleepers.fetch_sub(1, std::memory_order_relaxed); }

void Nap::sleep(std::chrono::nanoseconds longest) {
  const timespec timeout{longest.count() / 1'000'000'000, longest.count() % 1'000'000'000};
  futex(bell_.rings, FUTEX_WAIT, seen_, &timeout);
}

}  // namespace quoit
