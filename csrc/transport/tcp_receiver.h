#pragma once
// All that one peer sends: takes frames off its streams and puts messages together in the mailbox.
#include <map>
#include <memory>
#include <vector>

#include "transport/mailbox.h"
#include "transport/tcp_epoll.h"
#include "transport/tcp_frames.h"

namespace quoit {

class TcpReceiver {
 public:
  TcpReceiver(TcpPeer& peer, Mailbox& mailbox, TcpEpoll& epoll);

  // A stream that the peer opened. One that is no stream of ours is closed.
  void add(int stream, Socket socket);

  // Says Bye and closes.
  void leave();

 private:
  static constexpr std::size_t kScratch = 64 * 1024;

  // A message that was announced and is not complete.
  struct Open {
    Arrival* arrival;
    std::size_t received;
  };

  struct Stream final : TcpLine {
    explicit Stream(TcpReceiver& owner) : owner(owner), scratch(new std::byte[kScratch]) {}
    bool on_events(std::uint32_t) override { return owner.read(*this); }

    // Bytes that were read and are not yet used.
    [[nodiscard]] std::size_t held() const { return end - begin; }

    TcpReceiver& owner;
    Socket socket;
    std::unique_ptr<std::byte[]> scratch;
    std::size_t begin = 0, end = 0;
    std::uint64_t body = 0;     // the message whose bytes come now,
    std::size_t body_at = 0;    // from here on,
    std::size_t body_left = 0;  // so many
    bool waits = false;         // for a message to be announced on stream 0
  };

  bool read(Stream& stream);
  [[nodiscard]] long fill(Stream& stream);
  void use(Stream& stream);
  bool take_frame(Stream& stream);
  void took(std::uint64_t id, std::size_t bytes);
  void wake_waiting();
  void lose(Stream& stream, const std::string& why);

  TcpPeer& peer_;
  Mailbox& mailbox_;
  TcpEpoll& epoll_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::map<std::uint64_t, Open> open_;
  std::uint64_t announced_ = 0;  // messages so far
};

}  // namespace quoit
