#include "transport/tcp_epoll.h"

#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "transport/tcp_frames.h"

namespace quoit {
namespace {

void control(int epoll, int operation, int fd, TcpLine& line, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = &line;
  QUOIT_CHECK(::epoll_ctl(epoll, operation, fd, &event) == 0, TransportError,
              "a TCP connection cannot be watched (epoll_ctl): ", std::strerror(errno));
}

}  // namespace

TcpEpoll::TcpEpoll() : epoll_(owned(::epoll_create1(EPOLL_CLOEXEC))) {}

void TcpEpoll::add(const Socket& socket, TcpLine& line, std::uint32_t events) {
  control(epoll_.fd(), EPOLL_CTL_ADD, socket.fd(), line, events);
}

void TcpEpoll::change(const Socket& socket, TcpLine& line, std::uint32_t events) {
  control(epoll_.fd(), EPOLL_CTL_MOD, socket.fd(), line, events);
}

bool TcpEpoll::poll() {
  std::array<epoll_event, 32> events;
  const int ready = ::epoll_wait(epoll_.fd(), events.data(), events.size(), 0);
  bool moved = false;
  for (int i = 0; i < ready; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    moved |= static_cast<TcpLine*>(event.data.ptr)->on_events(event.events);
  }
  return moved;
}

}  // namespace quoit
