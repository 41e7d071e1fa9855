#include "transport/tcp_sender.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

namespace quoit {
namespace {

constexpr std::size_t kWriteAtOnce = 4 * 1024 * 1024;  // then others get their turn
constexpr Seconds kRest{0.2};  // after all addresses failed, before they are tried again

// Fills the promised length of a cancelled message.
const std::array<std::byte, 16 * 1024> kZeros{};

Clock::time_point later(Clock::time_point now, Seconds by) {
  return now + std::chrono::duration_cast<Clock::duration>(by);
}

}  // namespace

TcpSender::TcpSender(int me, TcpPeer& peer, TcpEpoll& epoll, int streams, Seconds patience)
    : me_(me), peer_(peer), epoll_(epoll), patience_(patience) {
  for (int number = 0; number < streams; ++number)
    streams_.push_back(std::make_unique<Stream>(*this, number));
}

Transfer TcpSender::send(Tag tag, ConstBytes data) {
  auto state = std::make_shared<Transfer::State>();
  state->peer = peer_.rank;
  const bool unreachable = !unreachable_why_.empty();
  if (unreachable) state->fail(unreachable_why_);
  // To a peer that is gone nothing goes; whoever looks after failures says why.
  if (unreachable || peer_.gone()) return Transfer(std::move(state));
  open();
  messages_.push_back({0, tag, data, state});
  const std::size_t streams = data.size() >= kStripedBytes ? streams_.size() : 1;
  for (std::size_t i = 0; i < streams; ++i) {
    Stream& stream = *streams_[i];
    if (stream.phase == Phase::Ready)
      write(stream);
    else if (stream.phase == Phase::Idle)
      connect(stream, Clock::now());
  }
  return Transfer(std::move(state));
}

void TcpSender::open() {
  if (streams_.front()->phase != Phase::Idle) return;
  unreachable_ = Deadline::after(patience_);
  connect(*streams_.front(), Clock::now());
}

bool TcpSender::pending() const {
  return std::any_of(messages_.begin(), messages_.end(),
                     [](const Message& message) { return !message.state->cancelled; });
}

// ---- Connecting.

void TcpSender::connect(Stream& stream, Clock::time_point now) {
  tending_ = true;
  if (stream.number == 0 && stream.address == 0) refused_.clear();
  stream.phase = Phase::Connecting;
  stream.until = later(now, kAttempt);
  stream.heard.bytes = 0;
  stream.socket = begin_connect(peer_.endpoint.addresses[stream.address], peer_.endpoint.port);
  if (!stream.socket.open()) return next_address(stream, std::strerror(errno));
  stream.interest = EPOLLOUT;
  epoll_.add(stream.socket, stream, stream.interest);
}

void TcpSender::next_address(Stream& stream, const std::string& why) {
  const auto& addresses = peer_.endpoint.addresses;
  stream.socket.close();
  if (stream.number == 0)
    refused_ += text(refused_.empty() ? "" : "; ", addresses[stream.address], " port ",
                     peer_.endpoint.port, ": ", why);
  stream.address = (stream.address + 1) % addresses.size();
  stream.phase = Phase::Waiting;
  stream.until = Clock::now();
  if (stream.address != 0) return;
  stream.until = later(stream.until, kRest);
  if (!unreachable_.passed()) return;
  stream.phase = Phase::GivenUp;
  if (stream.number != 0) return;  // further streams only make it faster
  unreachable_why_ =
      text("rank ", peer_.rank, " on ", peer_.host, " cannot be reached over TCP (", refused_,
           "). Is a firewall in between? QUOIT_IFACE chooses interfaces, QUOIT_PORTS the ports");
  for (const Message& message : messages_) message.state->fail(unreachable_why_);
  drop_all();
}

void TcpSender::tend(Clock::time_point now) {
  if (!tending_) return;
  tending_ = false;
  for (const auto& stream : streams_) {
    const bool waits = stream->phase == Phase::Waiting;
    if (!waits && stream->phase != Phase::Connecting && stream->phase != Phase::Greeting) continue;
    tending_ = true;
    if (now < stream->until) continue;
    if (waits)
      connect(*stream, now);
    else
      next_address(*stream, "no answer");
  }
}

bool TcpSender::proceed(Stream& stream, std::uint32_t events) {
  if (!stream.socket.open()) return false;
  if (stream.phase == Phase::Connecting) {
    if (const int error = stream.socket.error(); error != 0) {
      next_address(stream, std::strerror(error));
      return false;
    }
    greet(stream);
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) listen(stream);
  return stream.phase == Phase::Ready && stream.socket.open() && write(stream);
}

void TcpSender::greet(Stream& stream) {
  TcpHello hello;
  hello.token = peer_.endpoint.token;
  hello.from = static_cast<std::uint32_t>(me_);
  hello.stream = static_cast<std::uint32_t>(stream.number);
  if (!write_object(stream.socket, hello)) return next_address(stream, std::strerror(errno));
  stream.phase = Phase::Greeting;
  want(stream, EPOLLIN);
}

// The peer says welcome, and in the end Bye.
void TcpSender::listen(Stream& stream) {
  static_assert(sizeof(TcpWelcome) == sizeof(TcpFrame));
  while (true) {
    const long moved = stream.heard.hear(stream.socket);
    if (moved == 0) return;
    if (moved < 0) {
      if (stream.phase == Phase::Greeting)
        return next_address(stream,
                            errno == 0 ? "another program answers there" : std::strerror(errno));
      return lose(errno);
    }
    if (!stream.heard.whole()) return;
    stream.heard.bytes = 0;
    const TcpWelcome& said = stream.heard.said;
    if (stream.phase == Phase::Greeting) {
      if (said.magic != TcpHello::kMagic || said.token != peer_.endpoint.token)
        return next_address(stream, "another program answers there");
      stream.phase = Phase::Ready;
      continue;
    }
    const auto frame = std::bit_cast<TcpFrame>(said);
    if (frame.kind == FrameKind::Bye) peer_.bye();
  }
}

// ---- Writing.

bool TcpSender::write(Stream& stream) {
  std::size_t total = 0;
  while (total < kWriteAtOnce) {
    if (stream.frame_left == 0 && stream.body_left == 0 && !assign(stream)) {
      want(stream, EPOLLIN);
      return total > 0;
    }
    std::array<IoSlice, 2> from;
    std::size_t slices = 0;
    if (stream.frame_left > 0)
      from[slices++] = {
          reinterpret_cast<std::byte*>(&stream.frame) + sizeof(TcpFrame) - stream.frame_left,
          stream.frame_left};
    if (stream.body_left > 0) {
      if (stream.message->state->cancelled)
        from[slices++] = {const_cast<std::byte*>(kZeros.data()),
                          std::min(stream.body_left, kZeros.size())};
      else
        from[slices++] = {const_cast<std::byte*>(stream.message->data.data()) + stream.body_at,
                          stream.body_left};
    }
    const long moved = write_some(stream.socket, {from.data(), slices});
    if (moved < 0) {
      lose(errno);
      return total > 0;
    }
    if (moved == 0) break;
    total += static_cast<std::size_t>(moved);
    wrote(stream, static_cast<std::size_t>(moved));
  }
  want(stream, EPOLLIN | EPOLLOUT);
  return total > 0;
}

// Gives a stream that is free its next frame; false when there is none for it.
bool TcpSender::assign(Stream& stream) {
  for (auto message = messages_.begin(); message != messages_.end();) {
    if (!message->announced) {
      if (stream.number != 0) return false;
      if (message->state->cancelled) {  // nobody has heard of it yet
        message = messages_.erase(message);
        continue;
      }
      message->id = next_id_++;
      const std::size_t first = std::min(message->data.size(), kInlineBytes);
      stream.frame = {FrameKind::Message, static_cast<std::uint32_t>(first), message->id,
                      message->data.size(), message->tag};
    } else if (message->assigned < message->data.size()) {
      const std::size_t bytes = std::min(message->data.size() - message->assigned, kPieceBytes);
      stream.frame = {FrameKind::Piece, static_cast<std::uint32_t>(bytes), message->id,
                      message->assigned, message->tag};
    } else {
      ++message;
      continue;
    }
    message->announced = true;
    stream.message = message;
    stream.frame_left = sizeof(TcpFrame);
    stream.body_at = message->assigned;
    stream.body_left = stream.frame.length;
    message->assigned += stream.frame.length;
    return true;
  }
  return false;
}

void TcpSender::wrote(Stream& stream, std::size_t bytes) {
  const std::size_t of_frame = std::min(bytes, stream.frame_left);
  stream.frame_left -= of_frame;
  stream.body_at += bytes - of_frame;
  stream.body_left -= bytes - of_frame;
  stream.message->written += bytes - of_frame;
  if (stream.frame_left == 0 && stream.body_left == 0) finish_frame(stream);
}

void TcpSender::finish_frame(Stream& stream) {
  const auto message = std::exchange(stream.message, messages_.end());
  if (message->written < message->data.size()) return;
  message->state->complete();
  messages_.erase(message);
}

void TcpSender::want(Stream& stream, std::uint32_t events) {
  if (stream.interest == events) return;
  stream.interest = events;
  epoll_.change(stream.socket, stream, events);
}

// ---- Ending.

void TcpSender::lose(int error) {
  peer_.end(error);
  for (const auto& stream : streams_) stream->socket.close();
  drop_all();
}

void TcpSender::drop_all() {
  messages_.clear();
  for (const auto& stream : streams_) {
    stream->message = messages_.end();
    stream->frame_left = stream->body_left = 0;
  }
}

void TcpSender::leave() {
  for (const auto& stream : streams_) {
    const bool between_frames = stream->frame_left == 0 && stream->body_left == 0;
    if (stream->phase == Phase::Ready && stream->socket.open() && between_frames)
      say_bye(stream->socket);
    stream->socket.close();
  }
  messages_.clear();
}

}  // namespace quoit
