#pragma once
// What the ranks of a group do with memory of devices over a network that takes it, a CUDA-aware
// MPI's: by messages from and to that memory, and sums by our kernels between them. MPI knows no
// streams: so a call begins when the device has come to it, and its messages are waited for by the
// host.
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "collective/device_hands.h"
#include "engine/work.h"

namespace quoit {

// What all ranks of a group can do so; each can what those before it can.
enum class DeviceReach : std::uint8_t {
  None,
  Moves,  // messages, and collectives that only move
  Adds,   // all: every rank has the kernels
};

class DeviceNetwork {
 public:
  // `where` as in "rank 3 on node7". The network outlives it.
  DeviceNetwork(Network& network, DeviceReach reach, std::string where);
  ~DeviceNetwork();
  DeviceNetwork(const DeviceNetwork&) = delete;
  DeviceNetwork& operator=(const DeviceNetwork&) = delete;

  // Of this group, as all ranks know it.
  [[nodiscard]] DeviceReach reach() const { return reach_; }

  // "mpi" or "host": how calls go.
  [[nodiscard]] std::string_view route() const;

  // What serves a call on that device which needs so much, or null: the call goes by way of the
  // host. From any thread.
  [[nodiscard]] DeviceHands* hands(const DeviceOrder& order, DeviceReach needed);

  // Whether a device was ever served. Then moves what the network has to move, with its context.
  [[nodiscard]] bool in_use() const { return last_.load(std::memory_order_relaxed) != nullptr; }
  bool progress();

  // A collective: `task` works with the hands of that device. `count` is of those that wait for it.
  [[nodiscard]] Task collective(std::shared_ptr<DeviceOrder> order, Task task,
                                std::shared_ptr<int> count) {
    DeviceHands& of_device = *hands(*order, DeviceReach::Moves);
    return in_order(of_device, std::move(order), std::move(task), std::move(count));
  }

  // Messages go in the order of the calls: `work` is this call's. `to` is reached by MPI.
  Task send(DeviceHands& hands, std::shared_ptr<DeviceOrder> order, std::shared_ptr<Work> work,
            int to, Tag tag, View data, std::shared_ptr<int> count);

  // From whichever memory; `from` may be kAnySource, `told` gets who it was.
  Task receive(DeviceHands& hands, std::shared_ptr<DeviceOrder> order, int from, Tag tag, View into,
               Work& told, std::shared_ptr<int> count);

 private:
  class Turn;

  [[nodiscard]] static Task in_order(DeviceHands& hands, std::shared_ptr<DeviceOrder> order,
                                     Task task, std::shared_ptr<int> count);
  [[nodiscard]] std::string open(const DeviceOrder& order, std::unique_ptr<DeviceHands>& hands);

  Network& network_;
  const DeviceReach reach_;
  const std::string where_;
  mutable std::mutex mutex_;                           // guards the next two
  std::map<int, std::unique_ptr<DeviceHands>> hands_;  // by device; null: it lacks something
  bool lacking_ = false;                               // some device did
  std::atomic<DeviceHands*> last_{nullptr};            // used
  // Calls that have not sent yet, by rank. Guarded by the engine's lock.
  std::map<int, std::deque<std::shared_ptr<Work>>> lines_;
};

}  // namespace quoit
