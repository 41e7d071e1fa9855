#pragma once
// Point-to-point messages through shared memory: one pipe per ordered pair of ranks.
#include <deque>
#include <vector>

#include "transport/bell.h"
#include "transport/mailbox.h"

namespace quoit {

// A single-producer single-consumer ring of bytes, in zeroed memory that both sides map.
struct Pipe {
  static constexpr std::size_t kCapacity = 256 * 1024;
  alignas(64) std::atomic<std::uint64_t> written{0};  // bytes, ever
  alignas(64) std::atomic<std::uint64_t> read{0};
  alignas(64) std::byte data[kCapacity];
};

class ShmTransport final : public Transport {
 public:
  // Group ranks of those who share the memory, and the bell of each; pipes[from * n + to] by
  // position in `members`. All outlive the transport.
  struct Host {
    std::vector<int> members;
    std::vector<Bell*> bells;
    Pipe* pipes;
  };
  static std::size_t bytes(int members) {
    return static_cast<std::size_t>(members) * static_cast<std::size_t>(members) * sizeof(Pipe);
  }

  ShmTransport(Host host, int rank, Mailbox& mailbox);

  [[nodiscard]] std::string_view name() const override { return "shm"; }
  [[nodiscard]] Transfer send(int to, Tag tag, ConstBytes data) override;
  bool progress() override;
  std::optional<std::string> failure() override { return std::nullopt; }
  [[nodiscard]] bool cancels() const override { return true; }
  [[nodiscard]] bool rings_bell() const override { return true; }

 private:
  struct Frame {
    std::uint64_t size;
    Tag tag;
  };
  static_assert(sizeof(Frame) == 16);

  struct Outgoing {
    Frame frame;
    ConstBytes data;
    std::size_t sent = 0;  // of frame and data together
    std::shared_ptr<Transfer::State> state;
  };

  struct Peer {
    int rank;
    Bell* bell;
    Pipe* out;
    Pipe* in;
    std::deque<Outgoing> sends;
    Arrival* arrival = nullptr;  // the message that is half received
    std::size_t received = 0;
    std::uint64_t rung = 0;  // where `in` was read to when its writer was last woken
  };

  bool push(Peer& peer);
  bool pull(Peer& peer);

  Mailbox& mailbox_;
  std::vector<Peer> peers_;         // all members but this rank
  std::vector<std::size_t> index_;  // group rank -> position in peers_
};

}  // namespace quoit
