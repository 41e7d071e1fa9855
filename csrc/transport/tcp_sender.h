#pragma once
// All that goes to one peer: opens streams to it when they are first needed, cuts messages into
// frames and writes what the sockets take.
#include <list>
#include <memory>
#include <vector>

#include "core/clock.h"
#include "transport/tcp_epoll.h"
#include "transport/tcp_frames.h"
#include "transport/transport.h"

namespace quoit {

class TcpSender {
 public:
  // `me` is this rank's number in the group. An address that does not answer is given up after
  // kAttempt, the peer after `patience`.
  static constexpr Seconds kAttempt{3};
  TcpSender(int me, TcpPeer& peer, TcpEpoll& epoll, int streams, Seconds patience);

  [[nodiscard]] Transfer send(Tag tag, ConstBytes data);

  // Opens stream 0, if it is not.
  void open();

  // Looks after connections that are being made.
  void tend(Clock::time_point now);

  // Whether a message that nobody cancelled waits to be written.
  [[nodiscard]] bool pending() const;

  // Says Bye and closes; messages that are not written are dropped.
  void leave();

 private:
  struct Message {
    std::uint64_t id = 0;  // given when it is announced
    Tag tag;
    ConstBytes data;
    std::shared_ptr<Transfer::State> state;
    bool announced = false;
    std::size_t assigned = 0;  // bytes that went into frames
    std::size_t written = 0;   // bytes that went to the sockets
  };

  enum class Phase : std::uint8_t {
    Idle,     // not needed so far
    Waiting,  // to try the next address
    Connecting,
    Greeting,  // said hello, waits for the welcome
    Ready,
    GivenUp,
  };

  struct Stream final : TcpLine {
    Stream(TcpSender& owner, int number) : owner(owner), number(number) {}
    bool on_events(std::uint32_t events) override { return owner.proceed(*this, events); }

    TcpSender& owner;
    int number;
    Phase phase = Phase::Idle;
    Socket socket;
    std::uint32_t interest = 0;  // events that the epoll set looks for
    std::size_t address = 0;     // of the peer's, the one tried now
    Clock::time_point until{};   // when to give this address up, or to try the next one
    Greeting heard;
    // The frame being written.
    std::list<Message>::iterator message;
    TcpFrame frame;
    std::size_t frame_left = 0;
    std::size_t body_at = 0, body_left = 0;
  };

  void connect(Stream& stream, Clock::time_point now);
  void next_address(Stream& stream, const std::string& why);
  bool proceed(Stream& stream, std::uint32_t events);
  void greet(Stream& stream);
  void listen(Stream& stream);
  bool write(Stream& stream);
  bool assign(Stream& stream);
  void wrote(Stream& stream, std::size_t bytes);
  void finish_frame(Stream& stream);
  void want(Stream& stream, std::uint32_t events);
  void lose(int error);
  void drop_all();

  int me_;
  TcpPeer& peer_;
  TcpEpoll& epoll_;
  Seconds patience_;
  Deadline unreachable_;  // when to give the peer up
  bool tending_ = false;  // some stream is being connected
  std::string refused_;   // what was wrong with the addresses tried
  std::string unreachable_why_;
  std::uint64_t next_id_ = 0;
  std::list<Message> messages_;  // in order; a frame being written points into it
  std::vector<std::unique_ptr<Stream>> streams_;
};

}  // namespace quoit
