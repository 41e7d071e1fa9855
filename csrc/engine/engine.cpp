#include "engine/engine.h"

#include <pthread.h>
#include <sched.h>

#include <utility>

#include "engine/pause.h"

namespace quoit {
namespace {

using namespace std::chrono_literals;

constexpr auto kSpin = 1ms;              // waiting caller, a core each: to wake takes up to 0.15 ms
constexpr auto kYield = 500us;           // waiting caller, more ranks than cores
constexpr auto kBackgroundSpin = 20us;   // background thread: the caller computes meanwhile
constexpr auto kDoze = 200us;            // background thread: waits for those who do not wait
constexpr auto kLongDoze = 1600us;       // amid calls that the program does wait for
constexpr int kDozes = 25;               // in a row without anything to look after
constexpr int kSure = 3;                 // looks that found work unattended, amid a program's calls
constexpr auto kLongestNap = 20ms;       // when arrivals ring the bell
constexpr auto kPollNap = 50us;          // when they do not
constexpr auto kPatrol = 1ms;            // deadlines and faults
constexpr auto kThoroughPatrol = 100ms;  // dead peers
constexpr auto kCheck = 20ms;            // the waiting caller's own deadline, Ctrl-C

std::atomic<bool> forked_child{false};

}  // namespace

void Engine::check_not_forked() {
  QUOIT_CHECK(
      !forked_child, UsageError,
      "a forked child process cannot use its parent's process group: start workers with the "
      "'spawn' method, or call init_process_group after forking");
}

// The holder of the lock stops driving. What is finished is freed without the lock: it may hold
// tensors, and those the interpreter's lock.
void Engine::let_go() {
  const std::vector<std::shared_ptr<Work>> finished = std::exchange(finished_, {});
  driving_.unlock();
}

// The right to drive. Drivers look at wanted_ after every sweep and give way.
class Engine::Turn {
 public:
  explicit Turn(Engine& engine) : engine_(engine) { take(); }
  ~Turn() { give(); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  void take() {
    engine_.wanted_.fetch_add(1);
    engine_.driving_.lock();
    engine_.wanted_.fetch_sub(1);
  }
  void give() { engine_.let_go(); }
  void give_way() {
    if (engine_.wanted_.load(std::memory_order_relaxed) == 0) return;
    give();
    while (engine_.wanted_.load(std::memory_order_relaxed) > 0) ::sched_yield();
    take();
  }

 private:
  Engine& engine_;
};

// While somebody waits, the background thread rests.
class Engine::Waiting {
 public:
  explicit Waiting(Engine& engine) : engine_(engine) { engine_.waiters_.fetch_add(1); }
  ~Waiting() {
    engine_.waiters_.fetch_sub(1);
    engine_.hand_over();
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  Engine& engine_;
};

// How a driver waits between sweeps that moved nothing: it spins, yields or sleeps, and looks after
// deadlines and peers meanwhile.
class Engine::Patience {
 public:
  Patience(Engine& engine, Turn& turn, Mode mode) : engine_(engine), turn_(turn), mode_(mode) {}

  // Whether it is time to let go of the lock and look at the caller's own deadline and at Ctrl-C.
  [[nodiscard]] bool check_due() const { return patrolled_ - born_ >= kCheck; }

  // One sweep, and what is to be done when it moved nothing.
  void step() {
    if (engine_.sweep())
      moved();
    else
      idle();
    turn_.give_way();
  }

  void moved() {
    polls_ = 0;
    since_ = {};
  }

  void idle() {
    if (crowded_)
      ::sched_yield();
    else
      pause_cpu();
    if (!crowded_ && ++polls_ % 32 != 0) return;
    if (!crowded_) ::sched_yield();  // a peer may be waiting for this very core
    const auto now = Clock::now();
    if (since_ == Clock::time_point{}) {
      since_ = now;
      look_around();
    }
    if (now - patrolled_ >= kPatrol) {
      const bool thorough = now - engine_.looked_ >= kThoroughPatrol;
      if (thorough) engine_.looked_ = now;
      engine_.patrol(thorough);
      patrolled_ = now;
    }
    const auto patience = mode_ == Mode::Background ? kBackgroundSpin : crowded_ ? kYield : kSpin;
    if (now - since_ >= patience) nap();
  }

 private:
  void look_around() {
    crowded_ = false;
    bell_rings_ = true;
    for (const Group* group : engine_.groups_) {
      crowded_ |= group->oversubscribed() && mode_ == Mode::Foreground;
      if (group->busy()) bell_rings_ &= group->rings_bell();
    }
  }

  void nap() {
    Nap nap(engine_.bell());
    for (Group* group : engine_.groups_)
      if (group->busy()) group->arm_bell();
    if (engine_.sweep()) return moved();
    turn_.give();
    nap.sleep(bell_rings_ ? std::chrono::nanoseconds(kLongestNap) : kPollNap);
    turn_.take();
  }

  Engine& engine_;
  Turn& turn_;
  Mode mode_;
  unsigned polls_ = 0;
  bool crowded_ = false;
  bool bell_rings_ = true;
  Clock::time_point since_{};
  const Clock::time_point born_ = Clock::now();
  Clock::time_point patrolled_ = born_;
};

Engine::Engine() : bell_memory_(SharedMemory::create(4096, "quoit-bell")) {}

Engine::~Engine() { stop(); }

Engine& Engine::process() {
  // Never destroyed: threads of the interpreter may use it until the very end.
  static Engine* const engine = [] {
    ::pthread_atfork(nullptr, nullptr, [] { forked_child = true; });
    return new Engine;
  }();
  check_not_forked();
  return *engine;
}

void Engine::join(Group& group) {
  const Turn turn(*this);
  groups_.push_back(&group);
}

void Engine::end(Group& group, Seconds grace) {
  if (forked_child) return;
  const Deadline deadline = Deadline::after(grace);
  const Waiting waiting(*this);
  Turn turn(*this);
  Patience patience(*this, turn, Mode::Foreground);
  while (!group.ordered_.empty() && !deadline.passed()) patience.step();
  if (!group.broken_.empty()) return;
  const std::string why = text("[quoit ", group.where(), "] the process group was destroyed");
  if (!group.ordered_.empty()) return fail(group, why + " while work was in flight");
  // Messages that nobody waited for are nobody else's concern.
  group.broken_ = why;
  const auto error = std::make_exception_ptr(TransportError(why + " while work was in flight"));
  while (!group.free_.empty()) fail_job(group, group.free_, group.free_.begin(), error);
}

void Engine::leave(Group& group) {
  if (forked_child) return;
  end(group, Seconds{0});
  const Turn turn(*this);
  if (!group.cancels()) abandoned_.splice(abandoned_.end(), group.failed_);
  std::erase(groups_, &group);
}

void Engine::abort(Group& group, const std::string& why) {
  const Turn turn(*this);
  if (group.broken_.empty()) fail(group, text("[quoit ", group.where(), "] ", why));
}

void Engine::submit(Group& group, std::shared_ptr<Work> work, Flow flow, Order order, Mode mode) {
  check_not_forked();
  {
    const Turn turn(*this);
    // A fault that peers announced while this rank was elsewhere.
    if (group.broken_.empty()) {
      if (const auto why = group.failure(false))
        fail(group, text("[quoit ", group.where(), "] ", describe(work->call()), ": ", *why), *why);
    }
    QUOIT_CHECK(group.broken_.empty(), TransportError, group.broken_);
    enqueue(group, Job(std::move(flow), std::move(work)), order);
  }
  if (mode == Mode::Either) undecided_.fetch_add(1);
  if (mode == Mode::Background || mode == Mode::Either)
    drive_in_background(/*at_once=*/mode == Mode::Background);
}

void Engine::enqueue(Group& group, Job job, Order order) {
  in_flight_.fetch_add(1);
  auto& jobs = order == Order::InTurn ? group.ordered_ : group.free_;
  jobs.push_back(std::move(job));
  if (order == Order::AtOnce || jobs.size() == 1) advance(group);
}

void Engine::drive_in_background(bool at_once) {
  if (in_flight_.load() == 0 || waiters_.load() > 0 || !background_allowed_) return;
  if (!at_once && dozing_) return;
  const std::lock_guard lock(idle_mutex_);
  if (stopping_) return;
  if (!background_.joinable()) background_ = std::thread([this] { run_background(); });
  if (at_once) asked_ = true;
  idle_.notify_one();
}

void Engine::wait(Work& work, Deadline deadline) {
  if (!work.done()) {
    const Waiting waiting(*this);
    while (!work.done()) {
      if (may_drive()) {
        Turn turn(*this);
        Patience patience(*this, turn, Mode::Foreground);
        while (!work.done() && !patience.check_due()) patience.step();
      } else {
        std::unique_lock lock(idle_mutex_);
        bystanders_.fetch_add(1);
        completed_.wait_for(lock, 1ms, [&] { return work.done(); });
        bystanders_.fetch_sub(1);
      }
      if (work.done()) break;
      if (deadline.passed()) give_up(work);
      heed_interrupt();
    }
  }
  if (auto error = work.error()) std::rethrow_exception(error);
}

// Whether nobody drives, or only the background thread, which gives way to a waiter after a sweep;
// another waiter drives until it has what it waits for.
bool Engine::may_drive() {
  if (waiters_.load() == 1) return true;
  if (!driving_.try_lock()) return false;
  driving_.unlock();
  return true;
}

// Throws TimeoutError, unless the work has ended meanwhile.
void Engine::give_up(const Work& work) {
  const Turn turn(*this);
  for (const Group* group : groups_)
    for (const auto* jobs : {&group->ordered_, &group->free_})
      for (const Job& job : *jobs)
        QUOIT_CHECK(job.work.get() != &work, TimeoutError, "[quoit ", group->where(), "] ",
                    describe(work.call()), ": not done in the time given to wait()");
}

// A waiter goes: whoever else needs progress must get it from somebody. Who has several works in
// flight waits for the next one at once, and does so better without the background thread.
void Engine::hand_over() {
  if (bystanders_.load() > 0) completed_.notify_all();
  if (in_flight_.load() > 0) undecided_.fetch_add(1);
  drive_in_background(/*at_once=*/false);
}

void Engine::set_interrupt(std::function<void()> check) { interrupt_ = std::move(check); }

void Engine::forbid_background() { background_allowed_ = false; }

void Engine::stop() {
  if (forked_child) return;
  {
    const std::lock_guard lock(idle_mutex_);
    stopping_ = true;
  }
  idle_.notify_all();
  ring(bell());
  if (background_.joinable()) background_.join();
  callbacks_.stop();
}

void Engine::run_background() {
  ::pthread_setname_np(::pthread_self(), "quoit");
  const auto useful = [this] {
    return in_flight_.load() > 0 && waiters_.load() == 0 && !stopping_;
  };
  // To wake this thread takes longer than a short message does. So while the program makes calls
  // that it may wait for at once, the thread need not be woken: it looks again every now and then.
  // What it finds in flight then will most likely be waited for in a moment, and it would only be
  // in the way, if the program has made a call since the last look.
  int dozes = 0, unattended = 0;
  std::chrono::microseconds doze = kDoze;
  unsigned seen = undecided_;
  std::unique_lock lock(idle_mutex_);
  while (!stopping_) {
    const unsigned now = undecided_;
    const bool quiet = now == seen;
    if (!quiet) dozes = kDozes;
    seen = now;
    unattended = useful() ? unattended + 1 : 0;
    if (quiet)
      doze = kDoze;
    else if (unattended == 0)
      doze = std::min<std::chrono::microseconds>(2 * doze, kLongDoze);
    if (unattended < (quiet || asked_ ? 1 : kSure)) {
      dozing_ = dozes > 0;
      if (dozes > 0) {
        --dozes;
        idle_.wait_for(lock, unattended > 0 ? kDoze : doze);
      } else if (!useful()) {  // asked once more, now that nobody counts on this thread
        idle_.wait(lock);
      }
      continue;
    }
    asked_ = false;
    unattended = kSure;
    lock.unlock();
    {
      Turn turn(*this);
      Patience patience(*this, turn, Mode::Background);
      for (unsigned polls = 0; useful() && polls < 4096; ++polls) {
        if (sweep())
          patience.moved();
        else if (useful())
          patience.idle();
        turn.give_way();
      }
    }
    lock.lock();
  }
}

}  // namespace quoit
