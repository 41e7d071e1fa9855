#include "engine/attempt.h"

#include <sched.h>

#include "engine/pause.h"

namespace quoit {
namespace {

using namespace std::chrono_literals;

constexpr auto kMoment = 20us;      // a hand-over to the long way costs a tenth of it
constexpr unsigned kPatience = 16;  // polls in vain before a peer is taken to sleep
constexpr unsigned kPolls = 64;     // between two looks at the clock

}  // namespace

Attempt::Attempt(Engine& engine, Group& group, Task task, Engine::Order order)
    : engine_(engine), group_(group), flow_(std::move(task)), order_(order) {
  Engine::check_not_forked();
  driving_ = engine.driving_.try_lock();
  if (!driving_) return;
  if (engine.in_flight_ == 0 && group.broken_.empty() && !group.failure(false)) {
    run();
  } else {
    driving_ = false;
    engine.let_go();
  }
}

Attempt::~Attempt() {
  if (driving_) engine_.let_go();
}

void Attempt::run() {
  const bool crowded = group_.oversubscribed();
  Clock::time_point since{};
  unsigned polls = 0;
  while (!flow_.done()) {
    if (flow_.step()) {
      polls = 0;
      continue;
    }
    if (++polls == (crowded ? 1 : kPatience)) group_.ring_peers();
    const bool moved = group_.progress();
    if (engine_.wanted_.load(std::memory_order_relaxed) > 0) return;
    if (!moved) {
      if (crowded)
        ::sched_yield();
      else
        pause_cpu();
    }
    if (!crowded && polls % kPolls != 0) continue;
    if (!crowded) ::sched_yield();  // the peer may be waiting for this very core
    const auto now = Clock::now();
    if (since == Clock::time_point{}) since = now;
    if (now - since >= kMoment) return;
  }
  done_ = !flow_.error();
  // Only now, when what was published has left this core, the fence costs nothing.
  group_.ring_peers();
}

void Attempt::submit(std::shared_ptr<Work> work) {
  if (driving_)
    engine_.enqueue(group_, Job(std::move(flow_), std::move(work)), order_);
  else
    engine_.submit(group_, std::move(work), std::move(flow_), order_, Engine::Mode::Foreground);
}

}  // namespace quoit
