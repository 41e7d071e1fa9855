#include "collective/device_edges.h"

#include <algorithm>
#include <array>
#include <list>
#include <optional>
#include <utility>

#include "core/log.h"

namespace quoit {
namespace {

constexpr std::size_t kPieces = 2;  // that are under way
constexpr std::size_t kPiece = std::size_t{4} << 20;

// Streams of messages beside those of users: that a piece is in its slot, and that it was taken.
constexpr Tag kPieceTag = -5;
constexpr Tag kCreditTag = -6;

// What the one byte of such a message says.
constexpr std::byte kPieceIsThere{1};
constexpr std::byte kNoPiece{0};

CudaAddress address(std::byte* data) { return reinterpret_cast<CudaAddress>(data); }

}  // namespace

// One direction between this rank and another. The mark of a slot is recorded again when the other
// side has told that its wait is in place: the sender's by the credit for the slot's last piece,
// the receiver's by the announcement of its next one.
struct DeviceEdges::Edge {
  Edge(CudaDevice& device, std::size_t bytes, std::unique_ptr<DeviceStream> of_order)
      : ours(std::make_unique<CudaScratch>(device, bytes)), stream(std::move(of_order)) {}

  // What is to come of an announcement; the sender may have given up waiting for it.
  struct Awaited {
    Grant grant;
    std::optional<Transfer> granted;
    bool forgotten = false;
    bool empty = false;  // no bytes are waited for
  };

  // The turns of messages that were given up before they were granted: the other side waits for
  // their bytes, and is told that there are none.
  void pass_over(Network& network, int peer) {
    std::erase_if(awaited, [&](const auto& one) {
      if (!one->forgotten || !one->granted->ready()) return false;
      if (one->grant.way == Grant::Way::Direct) over.emplace(one->grant.turn, one->empty);
      return true;
    });
    for (auto one = over.find(turn); one != over.end(); one = over.find(++turn)) {
      if (!one->second) told.push_back(network.send(peer, kPieceTag, {&kNoPiece, 1}));
      over.erase(one);
    }
    std::erase_if(told, [](Transfer& one) { return one.ready(); });
  }

  std::unique_ptr<CudaScratch> ours;
  std::unique_ptr<CudaWindow> theirs;
  std::unique_ptr<DeviceStream> stream;
  std::uint64_t messages = 0;  // announced; of incoming ones those that come directly
  std::uint64_t turn = 0;      // whose bytes go now
  std::uint64_t pieces = 0;    // ever
  bool broken = false;         // a message was given up halfway
  std::list<std::shared_ptr<Awaited>> awaited;
  std::map<std::uint64_t, bool> over;  // turns of what was given up; whether it is empty
  std::vector<Transfer> told;
};

// Waits for a message's turn; when it goes, the next one may come, unless it was given up halfway.
class DeviceEdges::Turn final : public Pollable {
 public:
  Turn(Edge& edge, Network& network, int peer, std::uint64_t number)
      : edge_(edge), network_(network), peer_(peer), number_(number) {}
  ~Turn() {
    if (!over_) edge_.broken = true;
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  bool ready() override {
    edge_.pass_over(network_, peer_);
    return edge_.turn == number_ || edge_.broken;
  }
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
  void end() {
    over_ = true;
    ++edge_.turn;
  }

 private:
  Edge& edge_;
  Network& network_;
  const int peer_;
  const std::uint64_t number_;
  bool over_ = false;
};

// Waits until the device has come to an event.
class DeviceEdges::Reached final : public OnDevice {
 public:
  Reached(const CudaDevice& device, CudaEvent event, std::shared_ptr<int> count)
      : OnDevice(std::move(count)), device_(device), event_(event) {}

  [[nodiscard]] std::string awaited() const override {
    return "this rank's accelerator, which has not come to the copies of this call";
  }

 private:
  bool come() override { return device_.reached(event_); }

  const CudaDevice& device_;
  CudaEvent const event_;
};

DeviceEdges::DeviceEdges(CudaDevice& device, const cuda::KernelSet& kernels, Network& network,
                         std::function<void(int)> opened)
    : device_(device), kernels_(kernels), network_(network), opened_(std::move(opened)) {}

DeviceEdges::~DeviceEdges() = default;

DeviceEdges::Edge& DeviceEdges::edge(bool outgoing, int peer, const DeviceOrder& order) {
  std::unique_ptr<Edge>& found = edges_[{outgoing, peer}];
  if (!found)
    found = std::make_unique<Edge>(device_, outgoing ? kPieces * kPiece : 0, order.new_stream());
  return *found;
}

// Whether what the other side has for this direction can be used.
bool DeviceEdges::learn(Edge& edge, int peer, const CudaOffer& offer) {
  if (edge.theirs) return true;
  try {
    edge.theirs = std::make_unique<CudaWindow>(device_, offer);
  } catch (const Error& error) {
    if (log::debug()) log::write(text("no CUDA IPC with rank ", peer, ": ", error.what()));
    return false;
  }
  opened_(peer);
  return true;
}

Task DeviceEdges::send(std::shared_ptr<DeviceOrder> order, int to, Tag tag, View data,
                       std::shared_ptr<int> count) {
  Edge& edge = this->edge(true, to, *order);
  Announcement announcement{edge.messages++, data.bytes(), edge.ours->offer()};
  const auto awaited = std::make_shared<Edge::Awaited>();
  awaited->empty = data.count == 0;
  awaited->granted = network_.recv(to, grant_tag(announcement.number), raw_bytes(awaited->grant));
  edge.awaited.push_back(awaited);
  // Unless this goes on until it is granted.
  const auto forget = [](Edge::Awaited* one) { one->forgotten = true; };
  std::unique_ptr<Edge::Awaited, decltype(forget)> waiting(awaited.get(), forget);
  Transfer announced = network_.send(to, kAnnounced | tag, raw_bytes(announcement));
  co_await announced;
  co_await *awaited->granted;
  static_cast<void>(waiting.release());
  edge.awaited.remove(awaited);
  const Grant& grant = awaited->grant;
  if (grant.way != Grant::Way::Direct) {
    order->start(*edge.stream);
    if (grant.way == Grant::Way::ByHost)
      co_await send_by_host(edge, to, announcement.number, data, count);
  } else {
    QUOIT_CHECK(learn(edge, to, grant.marks), TransportError, "rank ", to, " can use the device ",
                "memory of this rank by CUDA IPC, but this rank not its events: set QUOIT_IPC=off");
    Turn turn(edge, network_, to, grant.turn);
    co_await turn;
    order->start(*edge.stream);
    co_await move(edge, true, to, data, nullptr);
    turn.end();
  }
  order->finish(*edge.stream);
  if (!order->finished_on_host()) co_return;
  Finished finished(*order, std::move(count));
  co_await finished;
}

Task DeviceEdges::send_by_host(Edge& edge, int to, std::uint64_t number, View data,
                               std::shared_ptr<int> count) {
  // Given back in any case: a copy that is under way uses them.
  const auto give_back = [this](CudaDevice::Slots* slots) {
    device_.give_back(std::unique_ptr<CudaDevice::Slots>(slots), nullptr);
  };
  const std::unique_ptr<CudaDevice::Slots, decltype(give_back)> slots(
      device_.take(data.bytes()).release(), give_back);
  {
    const CudaDevice::Current here(device_);
    const CudaDriver& driver = device_.driver;
    if (data.count > 0)
      driver.must(driver.calls.memcpy_async, address(slots->memory), address(data.data),
                  data.bytes(), edge.stream->handle);
    driver.must(driver.calls.event_record, slots->arrived[0], edge.stream->handle);
  }
  {
    Reached reached(device_, slots->arrived[0], std::move(count));
    co_await reached;
  }
  Transfer sent = network_.send(to, bytes_tag(number), {slots->memory, data.bytes()});
  co_await sent;
}

Task DeviceEdges::receive(std::shared_ptr<DeviceOrder> order, int from, Tag tag, View into,
                          Work& told, std::shared_ptr<int> count) {
  Transfer arrived = network_.recv(from, tag, {}, Fit::Whole);
  const int peer = co_await arrived;
  told.set_source(peer);
  if (arrived.announced()) {
    co_await receive_announced(order, peer, Announcement::read(arrived.whole()), into);
  } else {
    check_fits(peer, {0, arrived.size(), {}}, into);
    Edge& edge = this->edge(false, peer, *order);
    order->start(*edge.stream);
    device_.put(arrived.whole(), into.data, edge.stream->handle);
    order->finish(*edge.stream);
  }
  if (!order->finished_on_host()) co_return;
  Finished finished(*order, std::move(count));
  co_await finished;
}

Task DeviceEdges::receive_announced(const std::shared_ptr<DeviceOrder>& order, int peer,
                                    Announcement announced, View into) {
  Edge& edge = this->edge(false, peer, *order);
  Grant grant;
  if (announced.bytes != into.bytes())
    grant.way = Grant::Way::Refused;
  else if (!learn(edge, peer, announced.slots))
    grant.way = Grant::Way::ByHost;
  if (grant.way != Grant::Way::Direct) {
    Transfer granted = network_.send(peer, grant_tag(announced.number), raw_bytes(grant));
    co_await granted;
    check_fits(peer, announced, into);
    Transfer bytes = network_.recv(peer, bytes_tag(announced.number), {}, Fit::Whole);
    co_await bytes;
    order->start(*edge.stream);
    device_.put(bytes.whole(), into.data, edge.stream->handle);
    order->finish(*edge.stream);
    co_return;
  }
  grant.turn = edge.messages++;
  grant.marks = edge.ours->offer();
  Turn turn(edge, network_, peer, grant.turn);
  Transfer granted = network_.send(peer, grant_tag(announced.number), raw_bytes(grant));
  co_await granted;
  co_await turn;
  order->start(*edge.stream);
  bool given_up = false;
  co_await move(edge, false, peer, into, &given_up);
  turn.end();
  QUOIT_CHECK(!given_up, TransportError, "rank ", peer,
              " gave the message up before this rank asked ", "for it: its time was over");
  order->finish(*edge.stream);
}

Task DeviceEdges::move(Edge& edge, bool outgoing, int peer, View data, bool* given_up) {
  const CudaDriver& driver = device_.driver;
  const auto wait_for = [&](std::size_t slot) {
    const CudaDevice::Current here(device_);
    driver.must(driver.calls.stream_wait_event, edge.stream->handle, edge.theirs->mark(slot), 0U);
  };
  const auto copy = [&](const std::byte* from, std::byte* to, std::size_t bytes, std::size_t slot) {
    const CudaDevice::Current here(device_);
    const std::array<cuda::Copy, 1> one{{{from, to, bytes}}};
    cuda::copy(kernels_, one, edge.stream->launch());
    driver.must(driver.calls.event_record, edge.ours->mark(slot), edge.stream->handle);
  };
  for (std::size_t done = 0; done < data.bytes(); done += kPiece, ++edge.pieces) {
    const std::size_t bytes = std::min(kPiece, data.bytes() - done);
    const std::size_t slot = edge.pieces % kPieces;
    std::byte said = kPieceIsThere;
    if (outgoing) {
      if (edge.pieces >= kPieces) {
        Transfer credit = network_.recv(peer, kCreditTag, raw_bytes(said));
        co_await credit;
        wait_for(slot);
      }
      copy(data.data + done, edge.ours->data() + slot * kPiece, bytes, slot);
      Transfer told = network_.send(peer, kPieceTag, raw_bytes(said));
      co_await told;
    } else {
      Transfer told = network_.recv(peer, kPieceTag, raw_bytes(said));
      co_await told;
      if (said == kNoPiece) {
        *given_up = true;
        co_return;
      }
      wait_for(slot);
      copy(edge.theirs->data() + slot * kPiece, data.data + done, bytes, slot);
      Transfer credit = network_.send(peer, kCreditTag, raw_bytes(said));
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
