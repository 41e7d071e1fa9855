#pragma once
// The engine drives everything in flight in one process.
//
// Whoever waits, drives: wait() makes progress itself, so a synchronous call never pays a hand-over
// to another thread. A background thread drives only while nobody waits and asynchronous work is in
// flight. One lock guards all groups and transports; its holder is "driving".
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/callbacks.h"
#include "engine/group.h"
#include "transport/arena.h"
#include "transport/bell.h"
#include "transport/shared_memory.h"

namespace quoit {

class Engine {
 public:
  Engine();
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // The one of this process. Made at first use; a forked child must not use it (UsageError).
  static Engine& process();

  // Where this process is woken; peers on this host map it by name.
  [[nodiscard]] Bell& bell() { return *reinterpret_cast<Bell*>(bell_memory_->data()); }
  [[nodiscard]] std::shared_ptr<SharedMemory> bell_memory() const { return bell_memory_; }

  // Memory that ranks of this host read where it lies.
  [[nodiscard]] Arena& arena() { return arena_; }

  void join(Group& group);

  // The group takes no more calls. Collectives in flight get `grace` to complete; what is not done
  // then fails, and if it is a collective, on all ranks.
  void end(Group& group, Seconds grace);

  // Ends the group at once, and forgets it.
  void leave(Group& group);

  // Makes the group fail for good: pending and later calls raise. Peers are told.
  void abort(Group& group, const std::string& why);

  enum class Order {
    InTurn,  // after all earlier ones of the group (collectives)
    AtOnce,  // side by side with everything (point-to-point)
  };
  enum class Mode {
    Now,         // the caller waits at once, and needs no handle on what is done: see Attempt
    Foreground,  // the caller waits at once
    Background,  // the caller goes on computing
    Either,      // nobody knows which: messages, and torch's send and recv
  };

  // Starts `task` as soon as its turn comes. Throws the group's first failure if it has failed.
  void submit(Group& group, std::shared_ptr<Work> work, Flow flow, Order order, Mode mode);

  // Returns when `work` is done, driving meanwhile. Throws what the work failed with, or
  // TimeoutError at `deadline` (the work then goes on until its own deadline).
  void wait(Work& work, Deadline deadline = {});

  // For work that nobody will wait() for but whose future somebody has: keeps the background thread
  // on. Unless `at_once`, it may take the thread 2 ms to begin.
  void drive_in_background(bool at_once = true);

  // Called every 50 ms or so by threads that wait; may throw to end the wait (Ctrl-C).
  void set_interrupt(std::function<void()> check);

  // Calls it, for a thread that waits for something else.
  void heed_interrupt() {
    if (interrupt_) interrupt_();
  }

  // Without it, work progresses only inside wait().
  void forbid_background();

  // Ends the threads. Called before the interpreter goes; later waits still drive.
  void stop();

 private:
  friend class Attempt;
  class Turn;
  class Waiting;
  class Patience;

  static void check_not_forked();
  void let_go();
  void enqueue(Group& group, Job job, Order order);
  bool sweep();
  bool advance(Group& group);
  bool step(Group& group);
  void finish(Job& job, std::exception_ptr error);
  void fail(Group& group, const std::string& why) { fail(group, why, why); }
  // `told` is what the other ranks hear: of somebody else's fault, without this rank's part in it.
  void fail(Group& group, const std::string& why, const std::string& told);
  void fail_first(Group& group, std::exception_ptr error);
  void fail_job(Group& group, std::list<Job>& jobs, std::list<Job>::iterator job,
                std::exception_ptr error);
  static std::optional<std::string> departed(Group& group, const Job& job);
  void patrol(bool thorough);
  void run_background();
  void hand_over();
  bool may_drive();
  void give_up(const Work& work);

  std::shared_ptr<SharedMemory> bell_memory_;
  Arena arena_;
  std::mutex driving_;
  std::vector<Group*> groups_;                   // guarded by driving_
  std::vector<std::shared_ptr<Work>> finished_;  // guarded by driving_; freed outside it
  std::list<Job> abandoned_;                     // guarded by driving_; see Group::cancels
  Clock::time_point looked_{};                   // guarded by driving_: last thorough patrol
  std::atomic<int> wanted_{0};                   // threads that want driving_ now
  std::atomic<int> waiters_{0};                  // threads inside wait()
  std::atomic<int> in_flight_{0};

  std::mutex idle_mutex_;
  std::condition_variable idle_;       // wakes the background thread
  std::condition_variable completed_;  // wakes waiters that do not drive
  std::atomic<int> bystanders_{0};     // those waiters
  std::atomic<bool> stopping_{false};  // changed under idle_mutex_
  std::atomic<bool> background_allowed_{true};
  std::atomic<bool> dozing_{false};     // the background thread looks again by itself, soon
  bool asked_ = false;                  // to drive at once; guarded by idle_mutex_
  std::atomic<unsigned> undecided_{0};  // times that somebody may wait soon, or not; see dozing_
  std::thread background_;
  Callbacks callbacks_;
  std::function<void()> interrupt_;
};

}  // namespace quoit
