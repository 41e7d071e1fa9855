#include "transport/loopback.h"

namespace quoit {

LoopbackTransport::LoopbackTransport(std::shared_ptr<LoopbackWire> wire, int rank, Mailbox& mailbox)
    : wire_(std::move(wire)), rank_(rank), mailbox_(mailbox) {}

Transfer LoopbackTransport::send(int to, Tag tag, ConstBytes data) {
  auto state = std::make_shared<Transfer::State>();
  state->peer = to;
  {
    const std::lock_guard lock(wire_->mutex);
    queue(rank_, to).push_back({tag, {data.begin(), data.end()}, state});
  }
  ring(*wire_->bells[static_cast<std::size_t>(to)]);
  return Transfer(std::move(state));
}

bool LoopbackTransport::progress() {
  std::vector<Bell*> senders;
  {
    const std::lock_guard lock(wire_->mutex);
    for (std::size_t from = 0; from < wire_->bells.size(); ++from) {
      auto& messages = queue(static_cast<int>(from), rank_);
      if (messages.empty()) continue;
      for (const LoopbackWire::Message& message : messages) {
        // What a rank tells of its failure outlives it, as it does on a real wire.
        if (message.state->cancelled && message.tag != kFaultTag) continue;
        mailbox_.deliver(static_cast<int>(from), message.tag, message.data);
        message.state->complete();
      }
      messages.clear();
      senders.push_back(wire_->bells[from]);
    }
  }
  for (Bell* sender : senders) ring(*sender);
  return !senders.empty();
}

}  // namespace quoit
