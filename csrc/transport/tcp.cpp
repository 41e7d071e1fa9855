#include "transport/tcp.h"

#include <unistd.h>

#include <thread>

#include "core/interfaces.h"

namespace quoit {
namespace {

constexpr auto kTend = std::chrono::milliseconds(1);  // between looks after new connections
constexpr Seconds kFarewell{0.5};                     // for the notice of a failure to go out

std::vector<std::string> own_addresses(const std::string& chosen) {
  std::vector<std::string> addresses;
  for (const Interface& one : reachable(interfaces(), chosen)) addresses.push_back(one.address);
  QUOIT_CHECK(!addresses.empty() || chosen.empty(), UnavailableError, "QUOIT_IFACE=", chosen,
              " leaves no address at which another host could reach this one: name another "
              "interface, or unset it");
  // A host without a network still reaches itself.
  if (addresses.empty()) addresses.emplace_back("127.0.0.1");
  return addresses;
}

}  // namespace

TcpTransport::TcpTransport(const TcpOptions& options, int rank, Bell& bell, Mailbox& mailbox)
    : options_(options),
      rank_(rank),
      owner_(::getpid()),
      mailbox_(mailbox),
      door_(Doorman::of_process(options.ports), bell),
      endpoint_{door_.port(), door_.token(), own_addresses(options.interfaces)} {
  QUOIT_CHECK(options.streams >= 1 && options.streams <= 16, UsageError,
              "QUOIT_STREAMS=", options.streams, ": choose 1 to 16 streams");
}

TcpTransport::~TcpTransport() {
  if (owner_ != ::getpid()) return;
  const Deadline deadline = Deadline::after(kFarewell);
  const auto pending = [this] {
    for (const auto& link : links_)
      if (link && link->sender.pending()) return true;
    return false;
  };
  while (pending() && !deadline.passed()) {
    if (!progress()) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  for (const auto& link : links_) {
    if (!link) continue;
    link->sender.leave();
    link->receiver.leave();
  }
}

void TcpTransport::meet(const std::vector<TcpEndpoint>& endpoints,
                        const std::vector<std::string>& hosts) {
  for (std::size_t peer = 0; peer < endpoints.size(); ++peer) {
    const auto number = static_cast<int>(peer);
    links_.push_back(
        number == rank_
            ? nullptr
            : std::make_unique<Link>(rank_, mailbox_, epoll_, options_,
                                     TcpPeer{number, hosts[peer], endpoints[peer], false, {}}));
  }
}

Transfer TcpTransport::send(int to, Tag tag, ConstBytes data) {
  return link(to).sender.send(tag, data);
}

// A connection to whom we wait for, even if nothing is sent to them, tells when they die.
void TcpTransport::expect(int from) { link(from).sender.open(); }

bool TcpTransport::progress() {
  for (Doorman::Visitor& visitor : door_.visitors()) {
    const auto from = static_cast<std::size_t>(visitor.from);
    if (from < links_.size() && links_[from])
      links_[from]->receiver.add(visitor.stream, std::move(visitor.socket));
  }
  const bool moved = epoll_.poll();
  if (const auto now = Clock::now(); now >= tend_next_) {
    tend_next_ = now + kTend;
    for (const auto& link : links_)
      if (link) link->sender.tend(now);
  }
  return moved;
}

std::optional<std::string> TcpTransport::failure() {
  for (const auto& link : links_)
    if (link && !link->peer.lost.empty() && link->peer.long_gone()) return link->peer.lost;
  return std::nullopt;
}

std::optional<std::string> TcpTransport::departed(int peer) {
  const auto index = static_cast<std::size_t>(peer);
  if (index >= links_.size() || !links_[index]) return std::nullopt;
  const TcpPeer& other = links_[index]->peer;
  if (!other.left || !other.long_gone()) return std::nullopt;
  return left_the_group(peer);
}

void TcpTransport::arm_bell() { door_.ring_when_ready(epoll_.fd()); }

}  // namespace quoit
