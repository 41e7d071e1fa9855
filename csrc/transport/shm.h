#pragma once
// Point-to-point messages through shared memory: one pipe per ordered pair of ranks. Long ones may
// only be offered there, for the other side to read where they lie.
#include <array>
#include <deque>
#include <vector>

#include "transport/bell.h"
#include "transport/mailbox.h"
#include "transport/shm_offers.h"

namespace quoit {

// A single-producer single-consumer ring of bytes, in zeroed memory that both sides map.
struct Pipe {
  static constexpr std::size_t kCapacity = 256 * 1024;
  static constexpr std::size_t kGivenUp = 8;
  alignas(64) std::atomic<std::uint64_t> written{0};  // bytes, ever
  alignas(64) std::atomic<std::uint64_t> read{0};
  alignas(64) OfferTable offers{};
  // Numbers (from 1) of messages that their sender gave up half-way, each at its number modulo
  // kGivenUp: no more of them than that can be on the way.
  std::array<std::atomic<std::uint64_t>, kGivenUp> given_up{};
  alignas(64) std::byte data[kCapacity];
};

class ShmTransport final : public Transport {
 public:
  // Group ranks of those who share the memory, and the bell of each; pipes[from * n + to] by
  // position in `members`, in memory that `keep` holds. All outlive the transport.
  struct Host {
    std::vector<int> members;
    std::vector<Bell*> bells;
    Pipe* pipes;
    PeerMemory* memory;
    std::shared_ptr<void> keep;
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

  // What a message begins with; long ones have both.
  struct Head {
    Frame frame;
    LongFrame more;

    [[nodiscard]] std::size_t bytes() const {
      return frame.size < kLongMessage ? sizeof(Frame) : sizeof(Head);
    }
  };
  static_assert(sizeof(Head) == sizeof(Frame) + sizeof(LongFrame));

  struct Outgoing {
    Frame frame;
    ConstBytes data;
    std::shared_ptr<Transfer::State> state;
    bool begun = false;    // its head is in the pipe
    std::size_t sent = 0;  // of the data
  };

  struct Peer {
    int rank;
    Bell* bell;
    Pipe* out;
    Pipe* in;
    OffersOut offers_out;
    OffersIn offers_in;
    std::deque<Outgoing> sends;
    std::uint64_t begun = 0;     // messages to it
    std::uint64_t came = 0;      // messages from it
    Arrival* arrival = nullptr;  // the message that is half received
    std::size_t received = 0;
    std::int64_t timed = 0;  // when that one was sent, if its receive was there before it
    std::uint64_t rung = 0;  // where `in` was read to when its writer was last woken
  };

  bool begin(Peer& peer, Outgoing& message, std::uint64_t& at);
  bool push(Peer& peer);
  void take_head(Peer& peer, std::uint64_t& at);
  void finish(Peer& peer);
  bool pull(Peer& peer);

  Mailbox& mailbox_;
  std::vector<Peer> peers_;         // all members but this rank
  std::vector<std::size_t> index_;  // group rank -> position in peers_
};

}  // namespace quoit
