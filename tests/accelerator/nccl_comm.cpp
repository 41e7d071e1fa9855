#include "nccl_comm.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <set>
#include <utility>

#include "streams.h"

namespace fakenccl {
namespace {

constexpr int kLookMs = 20;  // how often a wait looks whether it was aborted
constexpr auto kLook = std::chrono::milliseconds(kLookMs);

sockaddr_un address_of(const Comm& comm, int rank) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = comm.folder + "/" + std::to_string(rank);
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

// The socket to a rank that listens, once it does; -1: aborted.
int call(const Comm& comm, int peer) {
  const sockaddr_un address = address_of(comm, peer);
  while (!comm.aborted) {
    const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const auto* target = reinterpret_cast<const sockaddr*>(&address);
    if (::connect(socket, target, sizeof address) == 0) {
      if (::send(socket, &comm.rank, sizeof comm.rank, MSG_NOSIGNAL) > 0) return socket;
    }
    ::close(socket);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return -1;
}

bool answer(Comm& comm, int listener, int callers) {
  for (int left = callers; left > 0 && !comm.aborted;) {
    pollfd ready{listener, POLLIN, 0};
    if (::poll(&ready, 1, kLookMs) <= 0) continue;
    const int socket = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    int peer = -1;
    if (socket >= 0 && ::recv(socket, &peer, sizeof peer, MSG_WAITALL) == sizeof peer) {
      comm.sockets[static_cast<size_t>(peer)] = socket;
      --left;
    }
  }
  return !comm.aborted;
}

// What goes between two ranks, in order: each piece is its length and its bytes.
struct Lane {
  struct Piece {
    uint64_t length;
    char* data;
    size_t at = 0;       // counts the length, too
    uint64_t heard = 0;  // the length as the peer says it

    bool done() const { return at == sizeof length + length; }
    std::pair<char*, size_t> rest(uint64_t& heading) const {
      if (at >= sizeof heading) return {data + (at - sizeof heading), sizeof heading + length - at};
      return {reinterpret_cast<char*>(&heading) + at, sizeof heading - at};
    }
  };

  Comm* comm;
  int peer;
  std::vector<Piece> out, in;
  size_t sent = 0, received = 0;  // pieces
  bool broken = false;            // then only an abort ends it

  bool sending() const { return sent < out.size() && !broken; }
  bool receiving() const { return received < in.size() && !broken; }
  bool done() const { return sent == out.size() && received == in.size(); }
  int socket() const { return comm->sockets[static_cast<size_t>(peer)]; }

  void send() {
    while (sending()) {
      Piece& piece = out[sent];
      const auto [from, bytes] = piece.rest(piece.length);
      const ssize_t moved = ::send(socket(), from, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (moved < 0) return fail();
      piece.at += static_cast<size_t>(moved);
      if (piece.done()) ++sent;
    }
  }

  void receive() {
    while (receiving()) {
      Piece& piece = in[received];
      const auto [to, bytes] = piece.rest(piece.heard);
      const ssize_t moved = ::recv(socket(), to, bytes, MSG_DONTWAIT);
      if (moved < 0) return fail();
      if (moved == 0) broken = true;  // that rank is gone
      piece.at += static_cast<size_t>(moved);
      if (piece.at == sizeof piece.heard && piece.heard != piece.length) {
        return refuse(piece.heard, piece.length);
      }
      if (piece.done()) ++received;
    }
  }

  void refuse(uint64_t length, uint64_t expected) {
    char text[160];
    std::snprintf(text, sizeof text, "rank %d expected %llu bytes of rank %d, which sent %llu",
                  comm->rank, static_cast<unsigned long long>(expected), peer,
                  static_cast<unsigned long long>(length));
    std::fprintf(stderr, "fake NCCL: %s\n", text);
    say(text);
    broken = true;
    comm->state = kInvalidUsage;
  }

  void fail() {
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) broken = true;
  }
};

// Operations that run together, begun by the first stream while the others wait.
struct Work {
  std::vector<Operation> operations;
  std::map<Comm*, uint64_t> tickets;
  std::set<void*> streams;
  const std::chrono::microseconds delay{fake_delay_us()};

  std::mutex mutex;
  std::condition_variable changed;
  size_t arrived = 0;
  bool done = false;

  bool aborted() const {
    return std::any_of(tickets.begin(), tickets.end(),
                       [](const auto& entry) { return entry.first->aborted.load(); });
  }
  // False: aborted.
  template <class Ready>
  bool wait(std::mutex& guarding, std::condition_variable& change, Ready ready) {
    std::unique_lock lock(guarding);
    while (!ready()) {
      if (aborted()) return false;
      change.wait_for(lock, kLook);
    }
    return !aborted();
  }
  bool exchange();
  bool begin();
  void run();
};

bool Work::exchange() {
  if (aborted()) return false;
  std::map<std::pair<Comm*, int>, Lane> lanes;
  // Collectives first: how they mix with messages of the same group differs between ranks.
  for (const bool collective : {true, false}) {
    for (Operation& operation : operations) {
      if (operation.collective != collective) continue;
      if (operation.prepare) operation.prepare();
      for (const Transfer& transfer : operation.transfers) {
        Lane& lane = lanes[{transfer.comm, transfer.peer}];
        lane.comm = transfer.comm;
        lane.peer = transfer.peer;
        (transfer.out ? lane.out : lane.in).push_back({transfer.bytes, transfer.data});
      }
    }
  }
  std::vector<Lane> open;
  for (auto& [key, lane] : lanes) {
    if (lane.peer != lane.comm->rank) {
      open.push_back(lane);
      continue;
    }
    for (size_t i = 0; i < std::min(lane.in.size(), lane.out.size()); ++i) {
      if (lane.in[i].length != lane.out[i].length)
        lane.refuse(lane.out[i].length, lane.in[i].length);
      else
        std::memmove(lane.in[i].data, lane.out[i].data, lane.in[i].length);
    }
  }
  while (!aborted()) {
    std::vector<pollfd> waits;
    bool done = true;
    for (Lane& lane : open) {
      lane.send();
      lane.receive();
      done = done && lane.done();
      const int events = (lane.sending() ? POLLOUT : 0) | (lane.receiving() ? POLLIN : 0);
      if (events != 0) waits.push_back({lane.socket(), static_cast<short>(events), 0});
    }
    if (done) return true;
    ::poll(waits.data(), waits.size(), kLookMs);
  }
  return false;
}

// Waits for the other streams and for its turn. False: aborted.
bool Work::begin() {
  if (!wait(mutex, changed, [this] { return arrived + 1 == streams.size(); })) return false;
  for (auto& [comm, ticket] : tickets) {
    if (!wait(comm->mutex, comm->changed, [&] { return comm->turn == ticket; })) return false;
  }
  // From here an abort waits until the buffers are left alone.
  for (auto& [comm, ticket] : tickets) {
    std::lock_guard lock(comm->mutex);
    ++comm->running;
  }
  return true;
}

void Work::run() {
  std::this_thread::sleep_for(delay);
  if (begin()) {
    if (exchange()) {
      for (Operation& operation : operations) {
        if (operation.finish) operation.finish();
      }
    }
    for (auto& [comm, ticket] : tickets) {
      std::lock_guard lock(comm->mutex);
      --comm->running;
    }
  }
  for (auto& [comm, ticket] : tickets) {
    std::lock_guard lock(comm->mutex);
    comm->turn = std::max(comm->turn, ticket + 1);
    --comm->queued;
    comm->changed.notify_all();
  }
  std::lock_guard lock(mutex);
  done = true;
  changed.notify_all();
}

using Shared = std::shared_ptr<Work>;

void enqueue(void* stream, const Shared& work, void (*call)(void*)) {
  fake_enqueue(stream, call, new Shared(work));
}

void queue(const Shared& work) {
  for (Operation& operation : work->operations) {
    if (!work->tickets.contains(operation.comm)) {
      std::lock_guard lock(operation.comm->mutex);
      work->tickets[operation.comm] = operation.comm->tickets++;
      ++operation.comm->queued;
    }
    work->streams.insert(operation.stream);
  }
  for (void* stream : work->streams) {
    if (stream == *work->streams.begin()) continue;
    enqueue(stream, work, [](void* held) {
      const std::unique_ptr<Shared> work(static_cast<Shared*>(held));
      std::unique_lock lock((*work)->mutex);
      ++(*work)->arrived;
      (*work)->changed.notify_all();
      (*work)->changed.wait(lock, [&] { return (*work)->done; });
    });
  }
  enqueue(*work->streams.begin(), work, [](void* held) {
    const std::unique_ptr<Shared> work(static_cast<Shared*>(held));
    (*work)->run();
  });
}

}  // namespace

bool connect(Comm& comm) {
  comm.sockets.assign(static_cast<size_t>(comm.size), -1);
  const sockaddr_un address = address_of(comm, comm.rank);
  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool met = ::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
             ::listen(listener, comm.size) == 0;
  for (int peer = 0; peer < comm.rank && met; ++peer) {
    comm.sockets[static_cast<size_t>(peer)] = call(comm, peer);
    met = !comm.aborted;
  }
  met = met && answer(comm, listener, comm.size - 1 - comm.rank);
  ::close(listener);
  ::unlink(address.sun_path);
  ::rmdir(comm.folder.c_str());  // works for the last one
  return met;
}

void launch(std::vector<Operation> group) {
  // Two threads must not queue the same communicators in two orders.
  static std::mutex launching;
  std::lock_guard lock(launching);
  while (!group.empty()) {
    auto work = std::make_shared<Work>();
    std::set<void*> together{group.front().comm, group.front().stream};
    for (size_t before = 0; before != together.size();) {
      before = together.size();
      for (const Operation& operation : group) {
        if (!together.contains(operation.comm) && !together.contains(operation.stream)) continue;
        together.insert(operation.comm);
        together.insert(operation.stream);
      }
    }
    std::vector<Operation> others;
    for (Operation& operation : group) {
      (together.contains(operation.comm) ? work->operations : others)
          .push_back(std::move(operation));
    }
    group = std::move(others);
    queue(work);
  }
}

}  // namespace fakenccl
