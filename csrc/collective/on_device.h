#pragma once
// Waiting for an accelerator, in the coroutine of a call.
#include <exception>
#include <memory>
#include <string>

#include "core/pollable.h"

namespace quoit {

// Nothing rings a bell when an accelerator has come to a point: `count` of those that wait for one
// is what the group goes by.
class OnDevice : public Pollable {
 public:
  explicit OnDevice(std::shared_ptr<int> count) : count_(std::move(count)) { ++*count_; }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  bool ready() final {
    try {
      return come();
    } catch (...) {
      error_ = std::current_exception();
      return true;
    }
  }
  [[nodiscard]] bool awaits(int /*rank*/) const final { return false; }

  // Call when ready; throws what the accelerator failed with.
  void result() const {
    if (error_) std::rethrow_exception(error_);
  }

 protected:
  ~OnDevice() { --*count_; }

 private:
  // Whether it has; throws what it failed with.
  virtual bool come() = 0;

  std::shared_ptr<int> count_;
  std::exception_ptr error_;
};

}  // namespace quoit
