#include "collective/device_edges.h"

#include <algorithm>
#include <array>
#include <utility>

namespace quoit {
namespace {

constexpr std::size_t kPieces = 2;  // that are under way
constexpr std::size_t kPiece = std::size_t{4} << 20;

// Streams of messages beside those of users. An announcement has its message's tag; the grant of a
// message that was announced as the k-th has a stream of its own.
constexpr Tag kAnnounced = Tag{1} << 62;
constexpr Tag kPieceTag = -5;
constexpr Tag kCreditTag = -6;
constexpr Tag grant_tag(std::uint64_t number) { return -1000 - static_cast<Tag>(number); }

struct Announcement {
  std::uint64_t number = 0;  // of the message, among those of this direction
  std::uint64_t bytes = 0;
  CudaOffer slots;
};

struct Grant {
  std::uint64_t turn = 0;
  bool refused = false;  // it has the wrong size: nothing moves
  CudaOffer marks;       // of what was read
};

template <class T>
Bytes raw(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

}  // namespace

// One direction between this rank and another. The mark of a slot is recorded again when the other
// side has told that its wait is in place: the sender's by the credit for the slot's last piece,
// the receiver's by the announcement of its next one.
struct DeviceEdges::Edge {
  Edge(CudaDevice& device, std::size_t bytes, std::unique_ptr<DeviceStream> of_order)
      : ours(std::make_unique<CudaScratch>(device, bytes)), stream(std::move(of_order)) {}

  // What the other side has for this direction.
  void learn(CudaDevice& device, const CudaOffer& offer) {
    if (!theirs) theirs = std::make_unique<CudaWindow>(device, offer);
  }

  std::unique_ptr<CudaScratch> ours;
  std::unique_ptr<CudaWindow> theirs;
  std::unique_ptr<DeviceStream> stream;
  std::uint64_t messages = 0;  // announced, or matched
  std::uint64_t turn = 0;      // whose bytes go now
  std::uint64_t pieces = 0;    // ever
  bool broken = false;         // a message was given up halfway
};

// Waits for a message's turn, once it is known; when it goes, the next one may come, unless it was
// given up.
class DeviceEdges::Turn final : public Pollable {
 public:
  Turn(Edge& edge, int peer) : edge_(edge), peer_(peer) {}
  ~Turn() {
    if (!over_) edge_.broken = true;
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  bool ready() override { return edge_.turn == number_ || edge_.broken; }
  [[nodiscard]] bool awaits(int rank) const override { return rank == peer_; }
  [[nodiscard]] std::string awaited() const override {
    return text("rank ", peer_, " to take earlier messages");
  }
  void result() const {
    QUOIT_CHECK(!edge_.broken, TransportError, "an earlier message between this rank and rank ",
                peer_,
                " was given up halfway, so that nothing more can go between their devices: "
                "make a new group");
  }
  void come(std::uint64_t number) { number_ = number; }
  void end() {
    over_ = true;
    ++edge_.turn;
  }

 private:
  Edge& edge_;
  const int peer_;
  std::uint64_t number_ = 0;
  bool over_ = false;
};

DeviceEdges::DeviceEdges(CudaDevice& device, const cuda::KernelSet& kernels, Network& network)
    : device_(device), kernels_(kernels), network_(network) {}

DeviceEdges::~DeviceEdges() = default;

DeviceEdges::Edge& DeviceEdges::edge(bool outgoing, int peer, const DeviceOrder& order) {
  std::unique_ptr<Edge>& found = edges_[{outgoing, peer}];
  if (!found)
    found = std::make_unique<Edge>(device_, outgoing ? kPieces * kPiece : 0, order.new_stream());
  return *found;
}

Task DeviceEdges::send(std::shared_ptr<DeviceOrder> order, int to, Tag tag, View data,
                       std::shared_ptr<int> count) {
  Edge& edge = this->edge(true, to, *order);
  Turn turn(edge, to);
  Announcement announcement{edge.messages++, data.bytes(), edge.ours->offer()};
  Transfer announced = network_.send(to, kAnnounced | tag, raw(announcement));
  co_await announced;
  Grant grant;
  Transfer granted = network_.recv(to, grant_tag(announcement.number), raw(grant));
  co_await granted;
  edge.learn(device_, grant.marks);
  turn.come(grant.turn);
  co_await turn;
  order->start(*edge.stream);
  if (!grant.refused) co_await move(edge, true, to, data);
  order->finish(*edge.stream);
  turn.end();
  if (!order->finished_on_host()) co_return;
  Finished finished(*order, std::move(count));
  co_await finished;
}

Task DeviceEdges::receive(std::shared_ptr<DeviceOrder> order, int from, Tag tag, View into,
                          Work* told, std::shared_ptr<int> count) {
  Announcement announcement;
  Transfer announced = network_.recv(from, kAnnounced | tag, raw(announcement));
  const int peer = co_await announced;
  if (told != nullptr) told->set_source(peer);
  Edge& edge = this->edge(false, peer, *order);
  edge.learn(device_, announcement.slots);
  const bool fits = announcement.bytes == into.bytes();
  Grant grant{edge.messages++, !fits, edge.ours->offer()};
  Turn turn(edge, peer);
  turn.come(grant.turn);
  Transfer granted = network_.send(peer, grant_tag(announcement.number), raw(grant));
  co_await granted;
  co_await turn;
  if (!fits) turn.end();
  QUOIT_CHECK(fits, TransportError, "rank ", peer, " sent ", announcement.bytes,
              " bytes, this rank expected ", into.bytes(),
              ": both sides must pass tensors of the same size and dtype");
  order->start(*edge.stream);
  co_await move(edge, false, peer, into);
  order->finish(*edge.stream);
  turn.end();
  if (!order->finished_on_host()) co_return;
  Finished finished(*order, std::move(count));
  co_await finished;
}

Task DeviceEdges::move(Edge& edge, bool outgoing, int peer, View data) {
  const CudaDriver& driver = device_.driver;
  const auto wait_for = [&](std::size_t slot) {
    const CudaDevice::Current here(device_);
    driver.must(driver.calls.stream_wait_event, edge.stream->handle, edge.theirs->mark(slot), 0U);
  };
  const auto copy = [&](const std::byte* from, std::byte* to, std::size_t bytes, std::size_t slot) {
    const CudaDevice::Current here(device_);
    const std::array<cuda::Copy, 1> one{{{from, to, bytes}}};
    cuda::copy(kernels_, one, {reinterpret_cast<cuda::Stream>(edge.stream->handle)});
    driver.must(driver.calls.event_record, edge.ours->mark(slot), edge.stream->handle);
  };
  for (std::size_t done = 0; done < data.bytes(); done += kPiece, ++edge.pieces) {
    const std::size_t bytes = std::min(kPiece, data.bytes() - done);
    const std::size_t slot = edge.pieces % kPieces;
    std::byte nothing{};
    if (outgoing) {
      if (edge.pieces >= kPieces) {
        Transfer credit = network_.recv(peer, kCreditTag, raw(nothing));
        co_await credit;
        wait_for(slot);
      }
      copy(data.data + done, edge.ours->data() + slot * kPiece, bytes, slot);
      Transfer told = network_.send(peer, kPieceTag, raw(nothing));
      co_await told;
    } else {
      Transfer told = network_.recv(peer, kPieceTag, raw(nothing));
      co_await told;
      wait_for(slot);
      copy(edge.theirs->data() + slot * kPiece, data.data + done, bytes, slot);
      Transfer credit = network_.send(peer, kCreditTag, raw(nothing));
      co_await credit;
    }
  }
}

void DeviceEdges::leave(CudaLegacy& legacy) {
  for (auto& [key, edge] : edges_) {
    legacy.streams.push_back(std::move(edge->stream));
    legacy.scratches.push_back(std::move(edge->ours));
    if (edge->theirs) legacy.windows.push_back(std::move(edge->theirs));
  }
  edges_.clear();
}

}  // namespace quoit
