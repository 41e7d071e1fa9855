#include "transport/tcp_doorman.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace quoit {
namespace {

void watch(const Socket& epoll, int fd, std::uint32_t events, int operation) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  QUOIT_CHECK(::epoll_ctl(epoll.fd(), operation, fd, &event) == 0, UnavailableError,
              "epoll_ctl: ", std::strerror(errno));
}

}  // namespace

Doorman::Doorman(const std::string& ports) : owner_(::getpid()) {
  const auto [first, last] = port_range(ports);
  listener_ = listen_on(first, last);
  epoll_ = owned(::epoll_create1(EPOLL_CLOEXEC));
  wake_ = owned(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  watch(epoll_, listener_.socket.fd(), EPOLLIN, EPOLL_CTL_ADD);
  watch(epoll_, wake_.fd(), EPOLLIN, EPOLL_CTL_ADD);
  thread_ = std::thread([this] { run(); });
}

Doorman::~Doorman() {
  const std::uint64_t one = 1;
  static_cast<void>(::write(wake_.fd(), &one, sizeof one));
  thread_.join();
}

Doorman& Doorman::of_process(const std::string& ports) {
  static Doorman* const doorman = new Doorman(ports);
  return *doorman;
}

void Doorman::run() {
  ::pthread_setname_np(::pthread_self(), "quoit-tcp");
  std::array<epoll_event, 64> events;
  while (true) {
    const int patience_ms = callers_.empty() ? -1 : 1000;
    const int ready = ::epoll_wait(epoll_.fd(), events.data(), events.size(), patience_ms);
    for (int i = 0; i < ready; ++i) {
      const int fd = events[static_cast<std::size_t>(i)].data.fd;
      if (fd == wake_.fd()) return;
      if (fd == listener_.socket.fd())
        accept_all();
      else if (callers_.contains(fd))
        hear(fd);
      else if (const std::lock_guard lock(mutex_); watched_.contains(fd))
        ring(watched_[fd]->bell_);
    }
    dismiss_late();
  }
}

void Doorman::accept_all() {
  while (true) {
    Socket socket(::accept4(listener_.socket.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.open()) return;
    if (callers_.size() >= kMostCallers) dismiss(callers_.begin()->first);
    const int fd = socket.fd();
    watch(epoll_, fd, EPOLLIN, EPOLL_CTL_ADD);
    callers_[fd] = {std::move(socket), Deadline::after(kHelloTime), {}};
  }
}

// Reads what a caller says; whoever says anything but a hello for one of our doors is dismissed.
void Doorman::hear(int fd) {
  Caller& caller = callers_[fd];
  Greeting& heard = caller.heard;
  if (heard.hear(caller.socket) < 0) return dismiss(fd);
  if (heard.bytes >= sizeof heard.said.magic && heard.said.magic != TcpHello::kMagic)
    return dismiss(fd);
  if (!heard.whole()) return;
  ::epoll_ctl(epoll_.fd(), EPOLL_CTL_DEL, fd, nullptr);
  admit(caller);
  callers_.erase(fd);
}

void Doorman::admit(Caller& caller) {
  const std::lock_guard lock(mutex_);
  const TcpHello& hello = caller.heard.said;
  const auto door = doors_.find(hello.token);
  if (door == doors_.end()) return;
  if (!write_object(caller.socket, TcpWelcome(hello))) return;
  prepare(caller.socket);
  door->second->visitors_.push_back(
      {static_cast<int>(hello.from), static_cast<int>(hello.stream), std::move(caller.socket)});
  door->second->somebody_.store(true, std::memory_order_release);
  ring(door->second->bell_);
}

void Doorman::dismiss(int fd) {
  callers_.erase(fd);  // closing it takes it out of the epoll set
}

void Doorman::dismiss_late() {
  std::erase_if(callers_, [](const auto& caller) { return caller.second.deadline.passed(); });
}

Doorman::Door::Door(Doorman& doorman, Bell& bell) : doorman_(doorman), bell_(bell) {
  QUOIT_CHECK(::getrandom(token_.data(), token_.size(), 0) == static_cast<long>(token_.size()),
              UnavailableError, "the system gives no random numbers: ", std::strerror(errno));
  const std::lock_guard lock(doorman_.mutex_);
  doorman_.doors_[token_] = this;
}

Doorman::Door::~Door() {
  if (doorman_.owner_ != ::getpid()) return;
  const std::lock_guard lock(doorman_.mutex_);
  doorman_.doors_.erase(token_);
  if (watched_ < 0) return;
  doorman_.watched_.erase(watched_);
  ::epoll_ctl(doorman_.epoll_.fd(), EPOLL_CTL_DEL, watched_, nullptr);
}

std::vector<Doorman::Visitor> Doorman::Door::visitors() {
  if (!somebody_.load(std::memory_order_acquire)) return {};
  const std::lock_guard lock(doorman_.mutex_);
  somebody_ = false;
  return std::exchange(visitors_, {});
}

void Doorman::Door::ring_when_ready(int epoll_fd) {
  const bool first = watched_ != epoll_fd;
  if (first) {
    const std::lock_guard lock(doorman_.mutex_);
    watched_ = epoll_fd;
    doorman_.watched_[epoll_fd] = this;
  }
  watch(doorman_.epoll_, epoll_fd, EPOLLIN | EPOLLONESHOT, first ? EPOLL_CTL_ADD : EPOLL_CTL_MOD);
}

}  // namespace quoit
