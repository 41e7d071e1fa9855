#pragma once
// send and recv: a communicator of two ranks for each direction between a pair, with a stream of
// its own, so that all go on side by side. Nothing here waits for the other rank.
#include <deque>
#include <functional>
#include <map>

#include "torch/nccl_state.h"

namespace quoit {

class NcclEdges final : public NcclState {
 public:
  using NcclState::NcclState;

  struct Message {
    bool sending = false;
    int peer = 0;
    at::Tensor data;              // contiguous
    std::function<void()> after;  // what comes after it in its stream
    Seconds timeout{};
  };

  // Throws UsageError in a capture, when the two ranks have not exchanged anything before.
  std::shared_ptr<NcclCall> transfer(const NcclLibrary* library, Message message);

 protected:
  bool advance() override;
  void drop() override { edges_.clear(); }

 private:
  struct Transfer {
    std::shared_ptr<NcclCall> call;
    Message message;
    c10::Event ready;  // the data, in the caller's stream
    bool begun = false;
  };
  struct Edge {
    std::shared_ptr<NcclCommunicator> communicator;  // none: the sender has not told its id
    bool connected = false;
    std::uint64_t calls = 0;
    std::deque<Transfer> queue;
  };

  void connect(Edge& edge, const NcclUniqueId& id, bool sending, c10::Device device);
  void serve();
  void step(Edge& edge);
  void begin(Edge& edge, Transfer& transfer) const;
  void finish(Transfer& transfer);

  const NcclLibrary* library_ = nullptr;
  std::optional<c10::Device> device_;
  std::map<std::pair<int, bool>, Edge> edges_;  // by peer, and whether this rank sends
  std::int64_t served_ = 0;                     // offers that this rank has taken
};

}  // namespace quoit
