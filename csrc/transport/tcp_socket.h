#pragma once
// Sockets that never block, and where a rank's TCP transport is found.
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace quoit {

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();

  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] bool open() const { return fd_ >= 0; }
  void close() { Socket().swap(*this); }

  // What went wrong, or 0.
  [[nodiscard]] int error() const;

 private:
  void swap(Socket& other) { std::swap(fd_, other.fd_); }
  int fd_ = -1;
};

// A new descriptor of the kernel's; throws UnavailableError when there was none left.
Socket owned(int fd);

// Where a rank's transport of one group is found: a port of its process, and a secret that says
// which group's transport is meant.
struct TcpEndpoint {
  using Token = std::array<std::uint8_t, 16>;

  std::uint16_t port = 0;
  Token token{};
  std::vector<std::string> addresses;  // IPv4 and IPv6, in the order in which to try them

  // One line of text, and back. read() throws TransportError on anything else.
  [[nodiscard]] std::string written() const;
  static TcpEndpoint read(const std::string& line);
};

// What the two sides of a new connection say first.
struct TcpHello {
  static constexpr std::uint64_t kMagic = 0x31544f5551504354;  // "TCPQUOT1": protocol and version
  std::uint64_t magic = kMagic;
  TcpEndpoint::Token token{};  // of the endpoint that is called
  std::uint32_t from = 0;      // the caller's rank in the group
  std::uint32_t stream = 0;    // of the caller's streams to this endpoint
};
static_assert(sizeof(TcpHello) == 32);
using TcpWelcome = TcpHello;  // the same again, by which the caller knows that it is understood

// A socket that listens on a port of `first` to `last` (0 to 0: any), on all addresses. Throws
// UnavailableError when none is free.
struct Listener {
  Socket socket;
  std::uint16_t port;
};
Listener listen_on(std::uint16_t first, std::uint16_t last);

// "20000-20100" or "20000" as the two ends; "" is {0, 0}. Throws UsageError.
std::pair<std::uint16_t, std::uint16_t> port_range(const std::string& ports);

// Begins to connect; the socket is writable when that is done. Not open() when it fails at once,
// with errno set.
Socket begin_connect(const std::string& address, std::uint16_t port);

// For a connection that carries data: no delay, keep-alive.
void prepare(const Socket& socket);

// Bytes moved, 0 when that would block, -1 with errno set when the connection is over (errno 0: the
// peer closed it).
struct IoSlice {
  void* data;
  std::size_t size;
};
long read_some(const Socket& socket, std::span<const IoSlice> into);
long write_some(const Socket& socket, std::span<const IoSlice> from);

// Writes an object at once, for which a connection with nothing under way has room. False, with
// errno set, when it did not go whole.
template <class Object>
bool write_object(const Socket& socket, Object object) {
  const IoSlice whole{&object, sizeof object};
  return write_some(socket, {&whole, 1}) == static_cast<long>(sizeof object);
}

// A greeting of which parts arrive, one after the other.
struct Greeting {
  TcpHello said;
  std::size_t bytes = 0;

  [[nodiscard]] bool whole() const { return bytes == sizeof said; }

  // As read_some.
  long hear(const Socket& socket);
};

}  // namespace quoit
