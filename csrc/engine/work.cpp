#include "engine/work.h"

namespace quoit {

void Work::when_done(std::function<void()> then) {
  {
    const std::lock_guard lock(mutex_);
    if (!done()) {
      then_.push_back(std::move(then));
      return;
    }
  }
  then();
}

std::vector<std::function<void()>> Work::finish(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  error_ = std::move(error);
  done_.store(true, std::memory_order_release);
  return std::move(then_);
}

}  // namespace quoit
