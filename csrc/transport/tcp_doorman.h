#pragma once
// The process's TCP port. One thread opens it to callers, hears whom they want, and hands the
// connections over to the transport of that group. It also rings the bell of a process that sleeps
// until something arrives.
#include <atomic>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "transport/bell.h"
#include "transport/tcp_socket.h"

namespace quoit {

class Doorman {
 public:
  static constexpr Seconds kHelloTime{10};          // for a caller to say what it wants
  static constexpr std::size_t kMostCallers = 256;  // of those who have not said it yet

  // Listens on a port of QUOIT_PORTS' range. Throws UnavailableError, UsageError.
  explicit Doorman(const std::string& ports);
  ~Doorman();
  Doorman(const Doorman&) = delete;
  Doorman& operator=(const Doorman&) = delete;

  // The process's own, made at the first call, with that call's ports; never destroyed.
  static Doorman& of_process(const std::string& ports);

  [[nodiscard]] std::uint16_t port() const { return listener_.port; }

  // A connection for a transport, after both sides have greeted.
  struct Visitor {
    int from;
    int stream;
    Socket socket;
  };

  // Connections for the endpoint `token` from now on; `bell` is rung when one came.
  class Door {
   public:
    Door(Doorman& doorman, Bell& bell);
    ~Door();
    Door(const Door&) = delete;
    Door& operator=(const Door&) = delete;

    [[nodiscard]] const TcpEndpoint::Token& token() const { return token_; }
    [[nodiscard]] std::uint16_t port() const { return doorman_.port(); }

    // Who came since the last call.
    std::vector<Visitor> visitors();

    // Rings the bell once, as soon as `epoll_fd` has something to tell.
    void ring_when_ready(int epoll_fd);

   private:
    friend class Doorman;
    Doorman& doorman_;
    Bell& bell_;
    TcpEndpoint::Token token_;
    std::atomic<bool> somebody_{false};
    std::vector<Visitor> visitors_;  // guarded by the doorman's mutex
    int watched_ = -1;
  };

 private:
  struct Caller {
    Socket socket;
    Deadline deadline;
    Greeting heard;
  };

  void run();
  void accept_all();
  void hear(int fd);
  void dismiss(int fd);
  void dismiss_late();
  void admit(Caller& caller);

  const int owner_;  // the process; its forked children have the sockets, but not the thread
  Listener listener_;
  Socket epoll_;
  Socket wake_;  // an eventfd: the thread shall end
  std::mutex mutex_;
  std::map<TcpEndpoint::Token, Door*> doors_;
  std::map<int, Door*> watched_;   // by epoll fd
  std::map<int, Caller> callers_;  // of the thread alone
  std::thread thread_;
};

}  // namespace quoit
