#include "transport/tcp_socket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <sstream>

#include "core/error.h"

namespace quoit {
namespace {

constexpr int kBacklog = 1024;

void set(int fd, int level, int option, int value) {
  // Best effort: none of the options decides whether a connection works.
  static_cast<void>(::setsockopt(fd, level, option, &value, sizeof value));
}

// An address and a port, as the system calls want them.
struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;

  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

Address address_of(const std::string& text, std::uint16_t port) {
  Address address;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (::inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    address.size = sizeof *v4;
  } else if (::inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    address.size = sizeof *v6;
  }
  return address;
}

// All addresses of IPv6 and IPv4 at once, or of IPv4 where the host has no IPv6.
Socket bound(std::uint16_t port) {
  for (const char* any : {"::", "0.0.0.0"}) {
    const Address address = address_of(any, port);
    Socket socket(
        ::socket(address.get()->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket.open()) continue;
    set(socket.fd(), SOL_SOCKET, SO_REUSEADDR, 1);
    if (address.get()->sa_family == AF_INET6) set(socket.fd(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (::bind(socket.fd(), address.get(), address.size) == 0 &&
        ::listen(socket.fd(), kBacklog) == 0)
      return socket;
    if (errno == EADDRINUSE) break;
  }
  return {};
}

std::uint16_t port_of(const Socket& socket) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  ::getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&storage), &size);
  return ntohs(storage.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port
                   : reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
}

long outcome(long moved) {
  if (moved >= 0) return moved;
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
}

msghdr message_of(std::span<const IoSlice> slices) {
  static_assert(sizeof(IoSlice) == sizeof(iovec));
  msghdr message{};
  message.msg_iov = reinterpret_cast<iovec*>(const_cast<IoSlice*>(slices.data()));
  message.msg_iovlen = slices.size();
  return message;
}

}  // namespace

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

Socket owned(int fd) {
  QUOIT_CHECK(fd >= 0, UnavailableError,
              "no file descriptors left (ulimit -n): ", std::strerror(errno));
  return Socket(fd);
}

int Socket::error() const {
  int error = 0;
  socklen_t size = sizeof error;
  return ::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

std::string TcpEndpoint::written() const {
  std::ostringstream line;
  line << port << ' ' << std::hex;
  for (const unsigned byte : token) line << (byte >> 4) << (byte & 15);
  for (const std::string& address : addresses) line << ' ' << address;
  return line.str();
}

TcpEndpoint TcpEndpoint::read(const std::string& line) {
  TcpEndpoint endpoint;
  std::istringstream words(line);
  std::string token;
  words >> endpoint.port >> token;
  bool whole = token.size() == 2 * endpoint.token.size();
  for (std::size_t i = 0; whole && i < endpoint.token.size(); ++i) {
    const char* digits = token.data() + 2 * i;
    whole = std::from_chars(digits, digits + 2, endpoint.token[i], 16).ptr == digits + 2;
  }
  for (std::string address; words >> address;) endpoint.addresses.push_back(address);
  QUOIT_CHECK(whole && endpoint.port != 0, TransportError, "'", line,
              "' is no TCP endpoint: do all ranks run the same version of quoit?");
  return endpoint;
}

Listener listen_on(std::uint16_t first, std::uint16_t last) {
  for (unsigned port = first; port <= last; ++port) {
    Socket socket = bound(static_cast<std::uint16_t>(port));
    if (!socket.open()) continue;
    const std::uint16_t chosen = port_of(socket);
    return {std::move(socket), chosen};
  }
  throw UnavailableError(
      first == 0 ? text("this host has no TCP port to listen on: ", std::strerror(errno))
                 : text("all TCP ports from ", first, " to ", last,
                        " are taken: give QUOIT_PORTS a wider range, one port for each rank of a "
                        "host"));
}

std::pair<std::uint16_t, std::uint16_t> port_range(const std::string& ports) {
  if (ports.empty()) return {0, 0};
  const std::size_t dash = ports.find('-');
  const std::string ends[] = {ports.substr(0, dash),
                              dash == std::string::npos ? ports : ports.substr(dash + 1)};
  std::uint16_t numbers[2] = {};
  bool fine = true;
  for (int i = 0; i < 2; ++i) {
    const char* end = ends[i].data() + ends[i].size();
    const auto [stop, error] = std::from_chars(ends[i].data(), end, numbers[i]);
    fine = fine && error == std::errc{} && stop == end && numbers[i] > 0;
  }
  QUOIT_CHECK(fine && numbers[0] <= numbers[1], UsageError, "QUOIT_PORTS=", ports,
              " is no range of ports: write it as 20000-20100, from 1 to 65535");
  return {numbers[0], numbers[1]};
}

Socket begin_connect(const std::string& text, std::uint16_t port) {
  const Address address = address_of(text, port);
  if (address.size == 0) {
    errno = EAFNOSUPPORT;
    return {};
  }
  Socket socket(::socket(address.get()->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.open()) return {};
  prepare(socket);
  if (::connect(socket.fd(), address.get(), address.size) != 0 && errno != EINPROGRESS) return {};
  return socket;
}

void prepare(const Socket& socket) {
  set(socket.fd(), IPPROTO_TCP, TCP_NODELAY, 1);
  // A host that vanishes while nothing is under way is noticed after 25 s.
  set(socket.fd(), SOL_SOCKET, SO_KEEPALIVE, 1);
  set(socket.fd(), IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set(socket.fd(), IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(socket.fd(), IPPROTO_TCP, TCP_KEEPCNT, 3);
}

long read_some(const Socket& socket, std::span<const IoSlice> into) {
  msghdr message = message_of(into);
  const long moved = ::recvmsg(socket.fd(), &message, MSG_DONTWAIT);
  if (moved == 0) {
    errno = 0;
    return -1;
  }
  return outcome(moved);
}

long Greeting::hear(const Socket& socket) {
  const IoSlice rest{reinterpret_cast<std::byte*>(&said) + bytes, sizeof said - bytes};
  const long moved = read_some(socket, {&rest, 1});
  if (moved > 0) bytes += static_cast<std::size_t>(moved);
  return moved;
}

long write_some(const Socket& socket, std::span<const IoSlice> from) {
  const msghdr message = message_of(from);
  return outcome(::sendmsg(socket.fd(), &message, MSG_DONTWAIT | MSG_NOSIGNAL));
}

}  // namespace quoit
