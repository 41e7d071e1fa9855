#pragma once
// An epoll set of TCP lines.
#include <cstdint>

#include "transport/tcp_socket.h"

namespace quoit {

class TcpLine;

class TcpEpoll {
 public:
  TcpEpoll();

  [[nodiscard]] int fd() const { return epoll_.fd(); }

  void add(const Socket& socket, TcpLine& line, std::uint32_t events);
  void change(const Socket& socket, TcpLine& line, std::uint32_t events);

  // Lets every line that is ready go on, without waiting; true when bytes of messages moved.
  bool poll();

 private:
  Socket epoll_;
};

}  // namespace quoit
