#include "engine/callbacks.h"

namespace quoit {

void Callbacks::run(std::function<void()> callback) {
  std::unique_lock lock(mutex_);
  if (stopping_) {
    lock.unlock();
    callback();
    return;
  }
  queue_.push_back(std::move(callback));
  if (queue_.size() > idle_) {
    ++idle_;
    threads_.emplace_back([this] { serve(); });
  }
  queued_.notify_one();
}

void Callbacks::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  queued_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void Callbacks::serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    queued_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    --idle_;
    if (queue_.empty()) return;
    auto callback = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    callback();
    callback = nullptr;
    lock.lock();
    ++idle_;
  }
}

}  // namespace quoit
