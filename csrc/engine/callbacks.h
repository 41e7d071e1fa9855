#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace quoit {

// Threads that run callbacks. A callback may block on a later one, so there is always an idle
// thread to take the next: the pool grows when all are busy, and never shrinks.
class Callbacks {
 public:
  Callbacks() = default;
  ~Callbacks() { stop(); }
  Callbacks(const Callbacks&) = delete;
  Callbacks& operator=(const Callbacks&) = delete;

  void run(std::function<void()> callback);

  // Runs what is queued, then ends the threads. Later callbacks run in the caller.
  void stop();

 private:
  void serve();

  std::mutex mutex_;
  std::condition_variable queued_;
  std::deque<std::function<void()>> queue_;
  std::vector<std::thread> threads_;
  std::size_t idle_ = 0;
  bool stopping_ = false;
};

}  // namespace quoit
