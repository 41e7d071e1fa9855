#pragma once
// All the links of one group: which transport reaches which rank, and the mailbox they deliver to.
#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "transport/mailbox.h"

namespace quoit {

// A send and a receive in flight together: what "both sides send first" needs to be safe.
class Exchange final : public Pollable {
 public:
  Exchange(Transfer out, Transfer in) : out_(std::move(out)), in_(std::move(in)) {}

  bool ready() override { return in_.ready() && out_.ready(); }
  [[nodiscard]] bool awaits(int rank) const override {
    return in_.awaits(rank) || out_.awaits(rank);
  }
  [[nodiscard]] std::string awaited() const override {
    return text("the message from ", in_.awaited(), " and the message to ", out_.awaited());
  }
  // The size of what was received.
  std::size_t result() const {
    in_.result();
    static_cast<void>(out_.result());
    return in_.size();
  }

 private:
  Transfer out_;
  Transfer in_;
};

class Network {
 public:
  Network(int rank, int size);
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int size() const { return static_cast<int>(routes_.size()); }
  [[nodiscard]] Mailbox& mailbox() { return mailbox_; }

  // Reaches the ranks `peers` through `transport`.
  void add(std::unique_ptr<Transport> transport, const std::vector<int>& peers);

  // Name of the transport that reaches `peer`; "self" for this rank.
  [[nodiscard]] std::string_view route(int peer) const;

  // As Transport::send. A message to this rank itself is delivered at once.
  [[nodiscard]] Transfer send(int to, Tag tag, ConstBytes data);

  // The same from memory of a device, to another rank and with kDeviceTag, by the transport that
  // takes such memory, whatever else reaches that rank.
  [[nodiscard]] Transfer send_from_device(int to, ConstBytes data) {
    return for_devices_->send(to, kDeviceTag, data);
  }

  // Receives a message of exactly into.size() bytes, or of any size; `from` may be kAnySource.
  [[nodiscard]] Transfer recv(int from, Tag tag, Bytes into, Fit fit = Fit::Exact);

  // Sends `out` to rank `to` and receives `in` from rank `from`.
  [[nodiscard]] Exchange exchange(int to, ConstBytes out, int from, Bytes in,
                                  Tag tag = kCollectiveTag, Fit fit = Fit::Exact);

  bool progress();
  void arm_bell();
  [[nodiscard]] bool rings_bell() const { return rings_bell_; }
  [[nodiscard]] bool cancels() const { return cancels_; }

  // Lets go of the other ranks, who hear that this one left.
  void leave();

  // Tells the other ranks why this one cannot go on (best effort, does not wait).
  void announce_fault(const std::string& why);

  // What a peer announced, or what a transport found broken.
  std::optional<std::string> failure();

  // As Transport::departed.
  std::optional<std::string> departed(int peer);

 private:
  using Notice = std::array<char, 512>;

  int rank_;
  Mailbox mailbox_;
  std::vector<std::unique_ptr<Transport>> transports_;
  std::vector<Transport*> routes_;  // by peer; null for this rank
  Transport* for_devices_ = nullptr;
  bool rings_bell_ = true;
  bool cancels_ = true;
  Notice heard_{};
  Notice told_{};
  std::optional<Transfer> notice_;
  std::vector<Transfer> notices_sent_;
};

}  // namespace quoit
