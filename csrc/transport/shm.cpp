#include "transport/shm.h"

#include <algorithm>
#include <cstring>
#include <utility>

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
    Pipe& out = host.pipes[me * n + i];
    Pipe& in = host.pipes[i * n + me];
    peers_.push_back(
        {.rank = host.members[i],
         .bell = host.bells[i],
         .out = &out,
         .in = &in,
         .offers_out = {out.offers, *host.memory, host.keep},
         .offers_in = {in.offers, *host.memory, static_cast<int>(i), *host.bells[i], mailbox},
         .sends = {}});
  }
}

Transfer ShmTransport::send(int to, Tag tag, ConstBytes data) {
  Peer& peer = peers_[index_[static_cast<std::size_t>(to)]];
  auto state = std::make_shared<Transfer::State>();
  state->peer = to;
  peer.sends.push_back({{data.size(), tag}, data, state});
  push(peer);
  return Transfer(std::move(state));
}

bool ShmTransport::progress() {
  bool moved = false;
  for (Peer& peer : peers_) {
    moved |= pull(peer);
    moved |= peer.offers_in.fetch();
    moved |= peer.offers_out.settle();
    if (!peer.sends.empty()) moved |= push(peer);
  }
  return moved;
}

// Writes the head of a message if there is room for it.
bool ShmTransport::begin(Peer& peer, Outgoing& message, std::uint64_t& at) {
  const std::uint64_t room =
      Pipe::kCapacity - (at - peer.out->read.load(std::memory_order_acquire));
  Head head{message.frame, {}};
  if (room < head.bytes()) return false;
  if (message.frame.size >= kLongMessage) {
    head.more.address = reinterpret_cast<std::uintptr_t>(message.data.data());
    head.more.sent = nanoseconds_now();
    head.more.offer = peer.offers_out.offer(message.data, message.state);
  }
  copy_in(*peer.out, at, reinterpret_cast<const std::byte*>(&head), head.bytes());
  at += head.bytes();
  ++peer.begun;
  message.begun = true;
  if (head.more.offer == 0) return true;
  // The rest is between the two offer tables.
  message.sent = message.data.size();
  message.state.reset();
  return true;
}

// Writes as much of the queued messages as the pipe has room for.
bool ShmTransport::push(Peer& peer) {
  bool moved = false;
  std::uint64_t at = peer.out->written.load(std::memory_order_relaxed);
  while (!peer.sends.empty()) {
    Outgoing& message = peer.sends.front();
    if (!message.begun) {
      if (message.state->cancelled) {
        peer.sends.pop_front();
        continue;
      }
      if (!begin(peer, message, at)) break;
      moved = true;
    }
    const std::size_t left = message.data.size() - message.sent;
    const std::size_t room =
        Pipe::kCapacity - (at - peer.out->read.load(std::memory_order_acquire));
    const std::size_t bytes = std::min({left, room, kStride});
    if (bytes > 0) {
      // A cancelled message was announced already: fill the promised length without its memory.
      if (message.state->cancelled)
        peer.out->given_up[peer.begun % Pipe::kGivenUp].store(peer.begun,
                                                              std::memory_order_relaxed);
      else
        copy_in(*peer.out, at, message.data.data() + message.sent, bytes);
    }
    at += bytes;
    message.sent += bytes;
    peer.out->written.store(at, std::memory_order_release);
    moved |= bytes > 0;
    if (message.sent < message.data.size()) {
      if (bytes < kStride) break;
      continue;
    }
    if (message.state) message.state->complete();
    peer.sends.pop_front();
  }
  if (moved) ring(*peer.bell);
  return moved;
}

// A head is written whole before it is published.
void ShmTransport::take_head(Peer& peer, std::uint64_t& at) {
  Head head{};
  const auto take = [&](std::byte* into, std::size_t bytes) {
    copy_out(*peer.in, at, bytes, [&](std::size_t offset, ConstBytes piece) {
      std::memcpy(into + offset, piece.data(), piece.size());
    });
    at += bytes;
  };
  take(reinterpret_cast<std::byte*>(&head.frame), sizeof(Frame));
  if (head.bytes() > sizeof(Frame))
    take(reinterpret_cast<std::byte*>(&head.more), sizeof(LongFrame));
  ++peer.came;
  if (head.more.offer > 0)
    return peer.offers_in.add(mailbox_.expect(peer.rank, head.frame.tag, head.frame.size),
                              head.more);
  Arrival& arrival = mailbox_.begin(peer.rank, head.frame.tag, head.frame.size);
  peer.arrival = &arrival;
  peer.received = 0;
  peer.timed = arrival.receive ? head.more.sent : 0;
  if (!arrival.receive && head.bytes() > sizeof(Frame)) peer.offers_in.comes_early(arrival.size);
}

void ShmTransport::finish(Peer& peer) {
  Arrival& arrival = *std::exchange(peer.arrival, nullptr);
  if (peer.in->given_up[peer.came % Pipe::kGivenUp].load(std::memory_order_relaxed) == peer.came)
    return mailbox_.spoil(arrival, gave_up(peer.rank, arrival.size));
  if (peer.timed > 0) peer.offers_in.came_by_pipe(arrival.size, peer.timed);
  mailbox_.arrived(arrival);
}

// Reads what lies in the pipe.
bool ShmTransport::pull(Peer& peer) {
  std::uint64_t at = peer.in->read.load(std::memory_order_relaxed);
  const std::uint64_t end = peer.in->written.load(std::memory_order_acquire);
  if (at == end) return false;
  while (at != end) {
    if (peer.arrival == nullptr) {
      take_head(peer, at);
      if (peer.arrival == nullptr) continue;
    }
    const std::size_t bytes =
        std::min<std::uint64_t>({peer.arrival->size - peer.received, end - at, kStride});
    copy_out(*peer.in, at, bytes, [&](std::size_t offset, ConstBytes piece) {
      peer.arrival->write(peer.received + offset, piece);
    });
    at += bytes;
    peer.received += bytes;
    peer.in->read.store(at, std::memory_order_release);
    if (peer.received == peer.arrival->size) finish(peer);
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
