#pragma once
#include "engine/engine.h"

namespace quoit {

// The short way of a call that its caller waits for at once. Most of a few bytes are over in less
// time than it takes to make a handle: so the caller steps the task itself, for a moment, and only
// what is not over by then becomes a Job with a Work like any other, in the turn that it has.
//
//   Attempt attempt(engine, group, std::move(task), order);
//   if (attempt.done()) return;
//   attempt.submit(work);
//
// The short way is for an engine with nothing else in flight. Whatever is out of the ordinary, a
// group that failed, ranks that disagree, is left to submit().
class Attempt {
 public:
  // Returns soon: at the latest some 20 us after the task could not go on.
  Attempt(Engine& engine, Group& group, Task task, Engine::Order order);
  ~Attempt();
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;

  // Whether the call is over and went well.
  [[nodiscard]] bool done() const { return done_; }

  // Goes on as Engine::submit does, in the foreground.
  void submit(std::shared_ptr<Work> work);

 private:
  void run();

  Engine& engine_;
  Group& group_;
  Flow flow_;
  Engine::Order order_;
  bool driving_ = false;  // from before the first step until the end: nothing comes between
  bool done_ = false;
};

}  // namespace quoit
