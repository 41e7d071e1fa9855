#pragma once
// Ranks that are threads of one process. For tests: what runs here runs under ThreadSanitizer.
#include <deque>
#include <mutex>
#include <vector>

#include "transport/bell.h"
#include "transport/mailbox.h"

namespace quoit {

// The wire between the ranks; all hold it.
struct LoopbackWire {
  struct Message {
    Tag tag;
    std::vector<std::byte> data;  // a copy: the sender may give up at any time
    std::shared_ptr<Transfer::State> state;
  };
  explicit LoopbackWire(std::vector<Bell*> bells)
      : bells(std::move(bells)), queues(this->bells.size() * this->bells.size()) {}

  std::mutex mutex;                         // guards all below
  std::vector<Bell*> bells;                 // by rank
  std::vector<std::deque<Message>> queues;  // [from * n + to]
};

// A send is done only when the receiver has taken it: the strictest rule a transport may have.
class LoopbackTransport final : public Transport {
 public:
  LoopbackTransport(std::shared_ptr<LoopbackWire> wire, int rank, Mailbox& mailbox);

  [[nodiscard]] std::string_view name() const override { return "loopback"; }
  [[nodiscard]] Transfer send(int to, Tag tag, ConstBytes data) override;
  bool progress() override;
  std::optional<std::string> failure() override { return std::nullopt; }
  [[nodiscard]] bool cancels() const override { return true; }
  [[nodiscard]] bool rings_bell() const override { return true; }

 private:
  [[nodiscard]] std::deque<LoopbackWire::Message>& queue(int from, int to) {
    return wire_->queues[static_cast<std::size_t>(from) * wire_->bells.size() +
                         static_cast<std::size_t>(to)];
  }

  std::shared_ptr<LoopbackWire> wire_;
  int rank_;
  Mailbox& mailbox_;
};

}  // namespace quoit
