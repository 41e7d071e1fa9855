#pragma once
// TCP between hosts: no MPI needed. Connections are made when they are first needed, so that a
// large group does not begin with a full mesh.
#include <memory>
#include <string>
#include <vector>

#include "core/clock.h"
#include "transport/mailbox.h"
#include "transport/tcp_doorman.h"
#include "transport/tcp_receiver.h"
#include "transport/tcp_sender.h"

namespace quoit {

struct TcpOptions {
  std::string interfaces;  // QUOIT_IFACE
  std::string ports;       // QUOIT_PORTS
  int streams = 4;         // QUOIT_STREAMS: per pair of ranks, for large messages
  Seconds patience{30};    // for a peer to be reached
};

class TcpTransport final : public Transport {
 public:
  // `rank` is this process's in the group, `bell` wakes it; `mailbox` outlives the transport.
  // Throws UsageError or UnavailableError when the options name no interface or free port.
  TcpTransport(const TcpOptions& options, int rank, Bell& bell, Mailbox& mailbox);
  ~TcpTransport() override;

  // Where peers find this rank: tell them, and then this rank where they are, by rank, with the
  // names of their hosts.
  [[nodiscard]] const TcpEndpoint& endpoint() const { return endpoint_; }
  void meet(const std::vector<TcpEndpoint>& endpoints, const std::vector<std::string>& hosts);

  [[nodiscard]] std::string_view name() const override { return "tcp"; }
  [[nodiscard]] Transfer send(int to, Tag tag, ConstBytes data) override;
  void expect(int from) override;
  bool progress() override;
  std::optional<std::string> failure() override;
  std::optional<std::string> departed(int peer) override;
  [[nodiscard]] bool cancels() const override { return true; }
  [[nodiscard]] bool rings_bell() const override { return true; }
  void arm_bell() override;

 private:
  struct Link {
    Link(int me, Mailbox& mailbox, TcpEpoll& epoll, const TcpOptions& options, TcpPeer peer)
        : peer(std::move(peer)),
          receiver(this->peer, mailbox, epoll),
          sender(me, this->peer, epoll, options.streams, options.patience) {}
    TcpPeer peer;
    TcpReceiver receiver;
    TcpSender sender;
  };

  Link& link(int peer) { return *links_[static_cast<std::size_t>(peer)]; }

  TcpOptions options_;
  int rank_;
  int owner_;  // the process that made it; a forked child leaves the connections alone
  Mailbox& mailbox_;
  TcpEpoll epoll_;
  Doorman::Door door_;
  TcpEndpoint endpoint_;
  Clock::time_point tend_next_{};
  std::vector<std::unique_ptr<Link>> links_;  // by peer; null for this rank
};

}  // namespace quoit
