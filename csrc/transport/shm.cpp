#include "transport/shm.h"

#include <algorithm>
#include <cstring>

#include "core/copy.h"

namespace quoit {
namespace {

// The reader starts on a long message while the writer still copies its end.
constexpr std::size_t kStride = 64 * 1024;

// Copies between a pipe and flat memory, at stream position `at`, round the end of the ring.
void copy_in(Pipe& pipe, std::uint64_t at, const std::byte* from, std::size_t bytes) {
  const std::size_t begin = at % Pipe::kCapacity;
  const std::size_t head = std::min(bytes, Pipe::kCapacity - begin);
  copy_bytes(from, pipe.data + begin, head);
  copy_bytes(from + head, pipe.data, bytes - head);
}

// Passes the bytes at stream position `at` to `sink` in at most two pieces.
template <class Sink>
void copy_out(const Pipe& pipe, std::uint64_t at, std::size_t bytes, Sink sink) {
  const std::size_t begin = at % Pipe::kCapacity;
  const std::size_t head = std::min(bytes, Pipe::kCapacity - begin);
  sink(0, ConstBytes{pipe.data + begin, head});
  if (bytes > head) sink(head, ConstBytes{pipe.data, bytes - head});
}

}  // namespace

ShmTransport::ShmTransport(Host host, int rank, Mailbox& mailbox) : mailbox_(mailbox) {
  const std::size_t n = host.members.size();
  const auto me = static_cast<std::size_t>(
      std::find(host.members.begin(), host.members.end(), rank) - host.members.begin());
  index_.resize(static_cast<std::size_t>(host.members.back()) + 1);
  for (std::size_t i = 0; i < n; ++i) {
    if (i == me) continue;
    index_[static_cast<std::size_t>(host.members[i])] = peers_.size();
    peers_.push_back({host.members[i],
                      host.bells[i],
                      &host.pipes[me * n + i],
                      &host.pipes[i * n + me],
                      {},
                      nullptr,
                      0,
                      0});
  }
}

Transfer ShmTransport::send(int to, Tag tag, ConstBytes data) {
  Peer& peer = peers_[index_[static_cast<std::size_t>(to)]];
  auto state = std::make_shared<Transfer::State>();
  state->peer = to;
  peer.sends.push_back({{data.size(), tag}, data, 0, state});
  push(peer);
  return Transfer(std::move(state));
}

bool ShmTransport::progress() {
  bool moved = false;
  for (Peer& peer : peers_) {
    moved |= pull(peer);
    if (!peer.sends.empty()) moved |= push(peer);
  }
  return moved;
}

// Writes as much of the queued messages as the pipe has room for.
bool ShmTransport::push(Peer& peer) {
  bool moved = false;
  std::uint64_t at = peer.out->written.load(std::memory_order_relaxed);
  while (!peer.sends.empty()) {
    Outgoing& message = peer.sends.front();
    if (message.sent == 0 && message.state->cancelled) {
      peer.sends.pop_front();
      continue;
    }
    std::size_t room = Pipe::kCapacity - (at - peer.out->read.load(std::memory_order_acquire));
    if (message.sent == 0) {
      if (room < sizeof(Frame)) break;
      copy_in(*peer.out, at, reinterpret_cast<const std::byte*>(&message.frame), sizeof(Frame));
      message.sent = sizeof(Frame);
      at += sizeof(Frame);
      room -= sizeof(Frame);
      moved = true;
    }
    const std::size_t done = message.sent - sizeof(Frame);
    const std::size_t bytes = std::min({message.data.size() - done, room, kStride});
    // A cancelled message was announced already: fill the promised length without its memory.
    if (!message.state->cancelled && bytes > 0)
      copy_in(*peer.out, at, message.data.data() + done, bytes);
    at += bytes;
    message.sent += bytes;
    peer.out->written.store(at, std::memory_order_release);
    moved |= bytes > 0;
    if (message.sent - sizeof(Frame) < message.data.size()) {
      if (bytes < kStride) break;
      continue;
    }
    message.state->complete();
    peer.sends.pop_front();
  }
  if (moved) ring(*peer.bell);
  return moved;
}

// Reads what lies in the pipe.
bool ShmTransport::pull(Peer& peer) {
  std::uint64_t at = peer.in->read.load(std::memory_order_relaxed);
  const std::uint64_t end = peer.in->written.load(std::memory_order_acquire);
  if (at == end) return false;
  while (at != end) {
    if (peer.arrival == nullptr) {
      // A frame is written whole before it is published.
      Frame frame{};
      copy_out(*peer.in, at, sizeof(Frame), [&](std::size_t offset, ConstBytes piece) {
        std::memcpy(reinterpret_cast<std::byte*>(&frame) + offset, piece.data(), piece.size());
      });
      at += sizeof(Frame);
      peer.arrival = &mailbox_.begin(peer.rank, frame.tag, frame.size);
      peer.received = 0;
    }
    const std::size_t bytes =
        std::min<std::uint64_t>({peer.arrival->size - peer.received, end - at, kStride});
    copy_out(*peer.in, at, bytes, [&](std::size_t offset, ConstBytes piece) {
      peer.arrival->write(peer.received + offset, piece);
    });
    at += bytes;
    peer.received += bytes;
    peer.in->read.store(at, std::memory_order_release);
    if (peer.received < peer.arrival->size) continue;
    mailbox_.arrived(*peer.arrival);
    peer.arrival = nullptr;
  }
  peer.in->read.store(at, std::memory_order_release);
  // The writer may sleep because the pipe was full. Before it is empty again this comes true.
  if (at - peer.rung >= Pipe::kCapacity / 4) {
    peer.rung = at;
    ring(*peer.bell);
  }
  return true;
}

}  // namespace quoit
