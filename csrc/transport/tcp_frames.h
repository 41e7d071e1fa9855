#pragma once
// What goes over a TCP connection after the greeting: frames, some followed by bytes.
//
// Connections are one-way: data flows from the rank that called to the rank that was called, over
// one stream or several. Messages are announced on stream 0 in the order in which they were sent,
// each with its first bytes; the rest follows in pieces, on whichever stream is free. Either side
// may say Bye, which tells a rank that left from one that died.
#include <cstdint>
#include <string>

#include "core/clock.h"
#include "core/types.h"
#include "transport/tcp_socket.h"

namespace quoit {

enum class FrameKind : std::uint32_t {
  Message = 0x4d455353,  // `at` is its size; its first `length` bytes follow
  Piece = 0x50494543,    // `length` bytes of message `id` follow, the first one is byte `at` of it
  Bye = 0x42594521,      // nothing follows, ever
};

struct TcpFrame {
  FrameKind kind = FrameKind::Bye;
  std::uint32_t length = 0;
  std::uint64_t id = 0;  // messages of a pair of ranks, counted from 0
  std::uint64_t at = 0;
  std::int64_t tag = 0;
};
static_assert(sizeof(TcpFrame) == 32);

// To a connection with nothing under way; whether it arrives is all the same.
inline void say_bye(const Socket& socket) { static_cast<void>(write_object(socket, TcpFrame{})); }

constexpr std::size_t kInlineBytes = 64 * 1024;  // that follow an announcement at once
constexpr std::size_t kPieceBytes = 256 * 1024;
constexpr std::size_t kStripedBytes = 1024 * 1024;  // messages from here on use several streams
constexpr std::uint64_t kLongestMessage = std::uint64_t{1} << 46;

// A connection, as the transport's epoll set knows it.
class TcpLine {
 public:
  // `events` of epoll happened; true when bytes of messages moved.
  virtual bool on_events(std::uint32_t events) = 0;

 protected:
  ~TcpLine() = default;
};

// What is known of a peer, by those who send to it and those who receive from it.
struct TcpPeer {
  int rank = 0;
  std::string host;
  TcpEndpoint endpoint;
  bool left = false;          // it said Bye
  std::string lost;           // why its connection is gone, though it did not
  Clock::time_point since{};  // when the first of these was found

  void bye();

  // The connection ended, by `error` (0: the peer closed it).
  void end(int error);
  void lose(std::string why);

  // Whether nothing more comes, or goes.
  [[nodiscard]] bool gone() const { return left || !lost.empty(); }

  // Whether that is old news: a peer that failed says why before it goes, and what it says may
  // arrive a little later, over another connection.
  [[nodiscard]] bool long_gone() const;
};

}  // namespace quoit
