#pragma once
// Coroutines. A collective is written as straight-line code that co_awaits what it must wait for;
// the engine steps many of them side by side.
#include <cassert>
#include <coroutine>
#include <exception>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/pollable.h"

namespace quoit {

class Flow;
class Task;

// Where a run of a task, and of the tasks it awaits, is suspended, and what for.
struct Stand {
  std::coroutine_handle<> resume;
  Pollable* blocked_on = nullptr;
  // Tasks that threw. What they were called with lives as long as the run: a transport that cannot
  // cancel may still use memory that they share.
  std::vector<Task> failed;
};

// A coroutine that returns nothing. Starts when it is awaited or stepped; owns its frame.
class [[nodiscard]] Task {
 public:
  struct promise_type;
  using Handle = std::coroutine_handle<promise_type>;

  explicit Task(Handle handle) : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

 private:
  friend class Flow;
  Handle handle_;
};

// A task being run. What it remembers lies in the task's frame, so that it may be moved meanwhile.
class Flow {
 public:
  Flow(Task task);  // NOLINT(google-explicit-constructor): whoever takes a flow takes a task

  // Goes on to the next point where it may have to wait; true when it moved at all.
  bool step();

  // Goes on until it must wait, or to its end; true when that is reached.
  bool run() {
    while (step()) {
    }
    return done();
  }

  [[nodiscard]] bool done() const { return task_.handle_.done(); }

  // What the finished task threw, or null.
  [[nodiscard]] std::exception_ptr error() const;

  // Whether the task waits for something from `rank` of the group.
  [[nodiscard]] bool awaits(int rank) const {
    const Pollable* const blocked_on = stand().blocked_on;
    return blocked_on && blocked_on->awaits(rank);
  }

  // Whom the task waits for.
  [[nodiscard]] std::string awaited() const {
    const Pollable* const blocked_on = stand().blocked_on;
    return blocked_on ? blocked_on->awaited() : "";
  }

 private:
  [[nodiscard]] Stand& stand() const;
  Task task_;
};

struct Task::promise_type {
  Task get_return_object() { return Task(Handle::from_promise(*this)); }
  std::suspend_always initial_suspend() noexcept { return {}; }
  void return_void() {}
  void unhandled_exception() { error = std::current_exception(); }

  struct ToParent {
    bool await_ready() noexcept { return false; }
    std::coroutine_handle<> await_suspend(Handle self) noexcept {
      return self.promise().parent ? self.promise().parent : std::noop_coroutine();
    }
    void await_resume() noexcept {}
  };
  ToParent final_suspend() noexcept { return {}; }

  // co_await on a Pollable gives its result().
  template <class P>
  struct Blocked {
    P& pollable;
    bool await_ready() { return pollable.ready(); }
    void await_suspend(Handle self) {
      self.promise().stand->resume = self;
      self.promise().stand->blocked_on = &pollable;
    }
    decltype(auto) await_resume() { return pollable.result(); }
  };
  template <class P>
    requires std::is_base_of_v<Pollable, std::remove_reference_t<P>>
  Blocked<std::remove_reference_t<P>> await_transform(P&& pollable) {
    return {pollable};
  }

  // co_await on a Task runs it to its end.
  struct Child {
    Task task;
    bool await_ready() { return false; }
    Handle await_suspend(Handle self) {
      task.handle_.promise().parent = self;
      task.handle_.promise().stand = self.promise().stand;
      return task.handle_;
    }
    void await_resume() {
      auto& [own, stand, parent, error] = task.handle_.promise();
      if (!error) return;
      const std::exception_ptr thrown = error;
      stand->failed.push_back(std::move(task));
      std::rethrow_exception(thrown);
    }
  };
  Child await_transform(Task&& task) { return {std::move(task)}; }

  Stand own;            // of the outermost task
  Stand* stand = &own;  // of the run that this task belongs to
  std::coroutine_handle<> parent;
  std::exception_ptr error;
};

inline Flow::Flow(Task task) : task_(std::move(task)) { stand().resume = task_.handle_; }

inline Stand& Flow::stand() const { return task_.handle_.promise().own; }

inline bool Flow::step() {
  Stand& at = stand();
  if (done() || (at.blocked_on && !at.blocked_on->ready())) return false;
  at.blocked_on = nullptr;
  at.resume.resume();
  return true;
}

inline std::exception_ptr Flow::error() const { return task_.handle_.promise().error; }

// Runs a task that has nothing to wait for; throws what it throws.
inline void run_at_once(Task task) {
  Flow flow(std::move(task));
  [[maybe_unused]] const bool over = flow.run();
  assert(over);
  if (const auto error = flow.error()) std::rethrow_exception(error);
}

// A task that runs beside the one that started it, which awaits it later. It moves only while
// somebody asks whether it is ready.
class Beside final : public Pollable {
 public:
  explicit Beside(Task task) : flow_(std::move(task)) { flow_.step(); }

  bool ready() override { return flow_.run(); }
  [[nodiscard]] bool awaits(int rank) const override { return flow_.awaits(rank); }
  [[nodiscard]] std::string awaited() const override { return flow_.awaited(); }
  void result() const {
    if (auto error = flow_.error()) std::rethrow_exception(error);
  }

 private:
  Flow flow_;
};

// Two tasks side by side, of which the first one finds out why the second may fail: done when both
// are, or when the first has failed.
class Together final : public Pollable {
 public:
  Together(Task first, Task second) : first_(std::move(first)), second_(std::move(second)) {}
  Together(Together&&) = default;

  bool ready() override {
    const bool first = first_.run();
    const bool second = second_.run();
    return first && (second || first_.error());
  }
  [[nodiscard]] bool awaits(int rank) const override {
    return first_.awaits(rank) || second_.awaits(rank);
  }
  [[nodiscard]] std::string awaited() const override {
    return second_.done() ? first_.awaited() : second_.awaited();
  }
  void result() const {
    for (const Flow* flow : {&first_, &second_})
      if (auto error = flow->error()) std::rethrow_exception(error);
  }

 private:
  Flow first_;
  Flow second_;
};

}  // namespace quoit
