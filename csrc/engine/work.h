#pragma once
#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "core/call.h"
#include "core/clock.h"

namespace quoit {

// The caller's handle on one submitted operation. Safe to use from any thread.
class Work {
 public:
  // `keep` holds the memory the operation works on until the Work is gone; `deadline` fails it.
  // `epilogue`, which may be empty, belongs to the operation: it runs after its last byte has come,
  // before the Work is done, under the engine's lock.
  Work(const Call& call, Deadline deadline, std::shared_ptr<void> keep,
       std::function<void()> epilogue = {})
      : call_(call), deadline_(deadline), keep_(std::move(keep)), epilogue_(std::move(epilogue)) {}

  [[nodiscard]] const Call& call() const { return call_; }
  [[nodiscard]] Deadline deadline() const { return deadline_; }
  [[nodiscard]] bool done() const { return done_.load(std::memory_order_acquire); }

  // Why it failed, or null. Read it when done.
  [[nodiscard]] std::exception_ptr error() const { return error_; }

  // Who sent, after a receive. Read it when done.
  [[nodiscard]] int source() const { return source_; }
  void set_source(int rank) { source_ = rank; }

  // Runs `then` once the work is done: at once if it is done already, otherwise on a thread made
  // for callbacks, never on one that others need for progress; `then` may itself wait for other
  // work.
  void when_done(std::function<void()> then);

  // As the constructor's; for whoever has just got the Work, and still holds it.
  void hold(std::shared_ptr<void> keep) { keep_ = std::move(keep); }

  // For every thread that has waited, of an operation on an accelerator's memory: see
  // Staging::join.
  void join() const {
    if (join_) join_();
  }
  void set_join(std::function<void()> join) { join_ = std::move(join); }

  // For the engine.
  void run_epilogue() const {
    if (epilogue_) epilogue_();
  }

  // For the engine: marks it done, and takes out what is to be called then.
  [[nodiscard]] std::vector<std::function<void()>> finish(std::exception_ptr error);

 private:
  const Call call_;
  const Deadline deadline_;
  std::shared_ptr<void> keep_;
  const std::function<void()> epilogue_;
  std::function<void()> join_;
  std::exception_ptr error_;
  int source_ = -1;
  std::atomic<bool> done_{false};
  std::mutex mutex_;  // guards then_ and its emptying
  std::vector<std::function<void()>> then_;
};

}  // namespace quoit
