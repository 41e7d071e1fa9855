#pragma once
// Coroutines. A collective is written as straight-line code that co_awaits what it must wait for;
// the engine steps many of them side by side.
#include <coroutine>
#include <exception>
#include <type_traits>
#include <utility>

#include "core/pollable.h"

namespace quoit {

class Flow;

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

// A task being run: remembers where it is suspended and what for.
class Flow {
 public:
  explicit Flow(Task task);
  Flow(const Flow&) = delete;
  Flow& operator=(const Flow&) = delete;

  // Goes on as far as possible; true when it moved at all.
  bool step();

  [[nodiscard]] bool done() const { return task_.handle_.done(); }

  // What the finished task threw, or null.
  [[nodiscard]] std::exception_ptr error() const;

  // Whether the task waits for something from `rank` of the group.
  [[nodiscard]] bool awaits(int rank) const { return blocked_on_ && blocked_on_->awaits(rank); }

  // Whom the task waits for.
  [[nodiscard]] std::string awaited() const { return blocked_on_ ? blocked_on_->awaited() : ""; }

 private:
  friend struct Task::promise_type;
  Task task_;
  std::coroutine_handle<> resume_;
  Pollable* blocked_on_ = nullptr;
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
      self.promise().flow->blocked_on_ = &pollable;
      self.promise().flow->resume_ = self;
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
      task.handle_.promise().flow = self.promise().flow;
      return task.handle_;
    }
    void await_resume() {
      if (auto error = task.handle_.promise().error) std::rethrow_exception(error);
    }
  };
  Child await_transform(Task&& task) { return {std::move(task)}; }

  Flow* flow = nullptr;
  std::coroutine_handle<> parent;
  std::exception_ptr error;
};

inline Flow::Flow(Task task) : task_(std::move(task)), resume_(task_.handle_) {
  task_.handle_.promise().flow = this;
}

inline bool Flow::step() {
  if (done() || (blocked_on_ && !blocked_on_->ready())) return false;
  blocked_on_ = nullptr;
  resume_.resume();
  return true;
}

inline std::exception_ptr Flow::error() const { return task_.handle_.promise().error; }

}  // namespace quoit
