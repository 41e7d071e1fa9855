// The one thread of the process that looks after NCCL's groups.
#include <thread>

#include "torch/nccl_state.h"

namespace quoit {
namespace {

constexpr Seconds kNcclLongestSleep{0.1};

// Never destroyed, nor is its thread ended: it may be the last to hold a group.
class NcclWatch {
 public:
  void look_after(const std::shared_ptr<NcclState>& state) {
    const std::scoped_lock lock(mutex_);
    bool known = false;
    for (const auto& one : states_) known |= one.lock() == state;
    if (!known) states_.push_back(state);
    wanted_ = true;
    if (!running_) std::thread([this] { run(); }).detach();
    running_ = true;
    changed_.notify_one();
  }

 private:
  void run() {
    tolerate_captures();
    while (true) {
      std::vector<std::shared_ptr<NcclState>> states;
      {
        const std::scoped_lock lock(mutex_);
        wanted_ = false;
        std::erase_if(states_, [](const auto& state) { return state.expired(); });
        for (const auto& one : states_)
          if (auto state = one.lock()) states.push_back(std::move(state));
      }
      Seconds pause = kNcclLongestSleep;
      for (const auto& state : states) pause = std::min(pause, state->look());
      const bool none = states.empty();
      states.clear();
      std::unique_lock lock(mutex_);
      const auto wanted = [this] { return wanted_; };
      if (none)
        changed_.wait(lock, wanted);
      else
        changed_.wait_for(lock, pause, wanted);
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::weak_ptr<NcclState>> states_;
  bool wanted_ = false;
  bool running_ = false;
};

}  // namespace

void nccl_watch(const std::shared_ptr<NcclState>& state) {
  static auto* const watch = new NcclWatch;
  watch->look_after(state);
}

}  // namespace quoit
