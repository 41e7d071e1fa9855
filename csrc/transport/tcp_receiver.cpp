#include "transport/tcp_receiver.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <new>

namespace quoit {
namespace {

constexpr std::size_t kMostStreams = 64;
constexpr auto kNews = std::chrono::milliseconds(100);
constexpr const char* kBytesOfNothing = "sent bytes of no message";
constexpr std::size_t kReadAtOnce = 4 * 1024 * 1024;  // then others get their turn

}  // namespace

void TcpPeer::bye() {
  if (!gone()) since = Clock::now();
  left = true;
}

void TcpPeer::end(int error) {
  lose(text("rank ", rank, " on ", host, " died, or the network between it and this rank broke (",
            error == 0 ? "it closed the connection without a word" : std::strerror(error), ")"));
}

void TcpPeer::lose(std::string why) {
  if (gone()) return;
  lost = std::move(why);
  since = Clock::now();
}

bool TcpPeer::long_gone() const { return gone() && Clock::now() - since >= kNews; }

TcpReceiver::TcpReceiver(TcpPeer& peer, Mailbox& mailbox, TcpEpoll& epoll)
    : peer_(peer), mailbox_(mailbox), epoll_(epoll) {}

void TcpReceiver::add(int number, Socket socket) {
  const auto index = static_cast<std::size_t>(number);
  if (number < 0 || index >= kMostStreams) return;
  while (streams_.size() <= index) streams_.push_back(nullptr);
  if (streams_[index]) return;
  streams_[index] = std::make_unique<Stream>(*this);
  streams_[index]->socket = std::move(socket);
  epoll_.add(streams_[index]->socket, *streams_[index], EPOLLIN);
}

bool TcpReceiver::read(Stream& stream) {
  std::size_t total = 0;
  while (stream.socket.open() && !stream.waits && total < kReadAtOnce) {
    const long moved = fill(stream);
    if (moved < 0) {
      peer_.end(errno);
      stream.socket.close();
      break;
    }
    if (moved == 0) break;
    total += static_cast<std::size_t>(moved);
    use(stream);
  }
  return total > 0;
}

// Reads straight into the message that is arriving, and what comes after it into the scratch.
long TcpReceiver::fill(Stream& stream) {
  if (stream.begin > 0) {
    std::memmove(stream.scratch.get(), stream.scratch.get() + stream.begin, stream.held());
    stream.end = stream.held();
    stream.begin = 0;
  }
  std::array<IoSlice, 2> into;
  std::size_t slices = 0;
  if (stream.body_left > 0 && stream.held() == 0) {
    const auto open = open_.find(stream.body);
    if (open == open_.end()) return lose(stream, kBytesOfNothing), 0;
    const Arrival& arrival = *open->second.arrival;
    // The memory of a cancelled receive is not touched: its bytes go the long way, and nowhere.
    const bool direct = arrival.buffer || !arrival.receive->cancelled;
    if (direct) into[slices++] = {arrival.into + stream.body_at, stream.body_left};
  }
  const std::size_t direct = slices > 0 ? stream.body_left : 0;
  into[slices++] = {stream.scratch.get() + stream.end, kScratch - stream.end};
  const long moved = read_some(stream.socket, {into.data(), slices});
  if (moved <= 0) return moved;
  const std::size_t body = std::min(static_cast<std::size_t>(moved), direct);
  stream.end += static_cast<std::size_t>(moved) - body;
  if (body > 0) {
    stream.body_at += body;
    stream.body_left -= body;
    took(stream.body, body);
  }
  return moved;
}

// Goes through what was read: frames, and bytes of messages between them.
void TcpReceiver::use(Stream& stream) {
  while (true) {
    if (stream.body_left > 0) {
      const std::size_t bytes = std::min(stream.held(), stream.body_left);
      if (bytes == 0) return;
      const auto open = open_.find(stream.body);
      if (open == open_.end()) return lose(stream, kBytesOfNothing);
      open->second.arrival->write(stream.body_at, {stream.scratch.get() + stream.begin, bytes});
      stream.begin += bytes;
      stream.body_at += bytes;
      stream.body_left -= bytes;
      took(stream.body, bytes);
    } else if (stream.held() < sizeof(TcpFrame) || !take_frame(stream)) {
      return;
    }
  }
}

// False when the stream cannot go on now.
bool TcpReceiver::take_frame(Stream& stream) {
  TcpFrame frame;
  std::memcpy(&frame, stream.scratch.get() + stream.begin, sizeof frame);
  if (frame.kind == FrameKind::Message) {
    const bool sound = frame.id == announced_ && frame.at <= kLongestMessage &&
                       frame.length <= frame.at && &stream == streams_.front().get();
    if (!sound) return lose(stream, "announced no message that could be"), false;
    try {
      open_[frame.id] = {&mailbox_.begin(peer_.rank, frame.tag, frame.at), 0};
    } catch (const std::bad_alloc&) {
      peer_.lose(text("rank ", peer_.rank, " on ", peer_.host, " sent ", frame.at,
                      " bytes for which this rank has no memory left: receive before they come"));
      stream.socket.close();
      return false;
    }
    ++announced_;
    stream.body_at = 0;
  } else if (frame.kind == FrameKind::Piece) {
    if (frame.id >= announced_) {
      // What this stream itself would have to announce never will be.
      if (&stream == streams_.front().get()) return lose(stream, kBytesOfNothing), false;
      stream.waits = true;
      epoll_.change(stream.socket, stream, 0);
      return false;
    }
    const auto open = open_.find(frame.id);
    const bool sound = open != open_.end() && frame.at <= open->second.arrival->size &&
                       frame.length <= open->second.arrival->size - frame.at && frame.length > 0;
    if (!sound) return lose(stream, kBytesOfNothing), false;
    stream.body_at = frame.at;
  } else if (frame.kind == FrameKind::Bye) {
    peer_.bye();
  } else {
    return lose(stream, "sent what is no frame of this protocol"), false;
  }
  stream.begin += sizeof frame;
  stream.body = frame.id;
  stream.body_left = frame.length;
  if (frame.kind == FrameKind::Message) {
    took(frame.id, 0);
    wake_waiting();
  }
  return true;
}

// `bytes` of a message are where they belong.
void TcpReceiver::took(std::uint64_t id, std::size_t bytes) {
  const auto open = open_.find(id);
  open->second.received += bytes;
  if (open->second.received < open->second.arrival->size) return;
  Arrival& arrival = *open->second.arrival;
  open_.erase(open);
  mailbox_.arrived(arrival);
}

void TcpReceiver::wake_waiting() {
  for (const auto& stream : streams_) {
    if (!stream || !stream->waits) continue;
    stream->waits = false;
    epoll_.change(stream->socket, *stream, EPOLLIN);
    use(*stream);
  }
}

void TcpReceiver::lose(Stream& stream, const std::string& why) {
  peer_.lose(text("rank ", peer_.rank, " on ", peer_.host, " ", why,
                  ": do all ranks run the same version of quoit?"));
  stream.socket.close();
}

void TcpReceiver::leave() {
  for (const auto& stream : streams_) {
    if (!stream || !stream->socket.open()) continue;
    say_bye(stream->socket);
    // Closing a socket that holds unread bytes would take the farewell back.
    ::shutdown(stream->socket.fd(), SHUT_WR);
    const IoSlice rest{stream->scratch.get(), kScratch};
    for (int i = 0; i < 64 && read_some(stream->socket, {&rest, 1}) > 0; ++i) {
    }
  }
  streams_.clear();
}

}  // namespace quoit
