#include "transport/network.h"

#include <algorithm>
#include <cstring>

namespace quoit {

Network::Network(int rank, int size) : rank_(rank), routes_(static_cast<std::size_t>(size)) {}

// Transports deliver into the mailbox: they go first.
Network::~Network() { leave(); }

void Network::add(std::unique_ptr<Transport> transport, const std::vector<int>& peers) {
  rings_bell_ = rings_bell_ && transport->rings_bell();
  cancels_ = cancels_ && transport->cancels();
  for (const int peer : peers)
    if (peer != rank_) routes_[static_cast<std::size_t>(peer)] = transport.get();
  if (transport->takes_device_memory()) for_devices_ = transport.get();
  transports_.push_back(std::move(transport));
}

std::string_view Network::route(int peer) const {
  return peer == rank_ ? "self" : routes_[static_cast<std::size_t>(peer)]->name();
}

Transfer Network::send(int to, Tag tag, ConstBytes data) {
  if (to != rank_) return routes_[static_cast<std::size_t>(to)]->send(to, tag, data);
  mailbox_.deliver(to, tag, data);
  auto state = std::make_shared<Transfer::State>();
  state->complete();
  return Transfer(std::move(state));
}

Transfer Network::recv(int from, Tag tag, Bytes into, Fit fit) {
  if (from != kAnySource && from != rank_) routes_[static_cast<std::size_t>(from)]->expect(from);
  return mailbox_.post(from, tag, into, fit);
}

Exchange Network::exchange(int to, ConstBytes out, int from, Bytes in, Tag tag, Fit fit) {
  Transfer receive = recv(from, tag, in, fit);
  return {send(to, tag, out), std::move(receive)};
}

bool Network::progress() {
  bool moved = false;
  for (const auto& transport : transports_) moved |= transport->progress();
  return moved;
}

void Network::arm_bell() {
  for (const auto& transport : transports_) transport->arm_bell();
}

std::optional<std::string> Network::departed(int peer) {
  Transport* const route = routes_[static_cast<std::size_t>(peer)];
  return route ? route->departed(peer) : std::nullopt;
}

void Network::leave() {
  std::fill(routes_.begin(), routes_.end(), nullptr);
  for_devices_ = nullptr;
  transports_.clear();
}

void Network::announce_fault(const std::string& why) {
  if (!notices_sent_.empty() || transports_.empty()) return;
  std::memcpy(told_.data(), why.data(), std::min(why.size(), told_.size() - 1));
  for (int peer = 0; peer < size(); ++peer)
    if (peer != rank_)
      notices_sent_.push_back(send(peer, kFaultTag, std::as_bytes(std::span(told_))));
  progress();
}

std::optional<std::string> Network::failure() {
  if (!notice_) notice_ = recv(kAnySource, kFaultTag, std::as_writable_bytes(std::span(heard_)));
  if (notice_->ready()) return std::string(heard_.data());
  for (const auto& transport : transports_)
    if (auto why = transport->failure()) return why;
  return std::nullopt;
}

}  // namespace quoit
