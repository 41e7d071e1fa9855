#pragma once
#include <string>
#include <utility>

#include "core/pollable.h"

namespace quoit {

// Between two stretches of work of a task's own: lets other calls, and threads that want to make
// some, have their turn.
class Breath final : public Pollable {
 public:
  bool ready() override { return std::exchange(taken_, true); }
  [[nodiscard]] bool awaits(int) const override { return false; }
  [[nodiscard]] std::string awaited() const override { return "this rank's own arithmetic"; }
  void result() const {}

 private:
  bool taken_ = false;
};

}  // namespace quoit
