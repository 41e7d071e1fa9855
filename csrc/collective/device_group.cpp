#include "collective/device_group.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/env.h"
#include "core/host.h"
#include "core/log.h"

namespace quoit {
namespace {

// What a rank tells: one byte, whether it has what it takes; then its offer, or why not.
constexpr std::byte kOffers{1};
constexpr std::byte kLacks{0};

std::vector<std::byte> written(const CudaOffer& offer) {
  std::vector<std::byte> words(1 + sizeof offer, kOffers);
  std::memcpy(words.data() + 1, &offer, sizeof offer);
  return words;
}
static_assert(1 + sizeof(CudaOffer) <= Introductions::kMost);

std::vector<std::byte> written(const std::string& lack) {
  std::vector<std::byte> words(1 + lack.size(), kLacks);
  std::memcpy(words.data() + 1, lack.data(), lack.size());
  return words;
}

std::optional<CudaOffer> offer_in(ConstBytes words) {
  CudaOffer offer;
  if (words[0] != kOffers || words.size() != 1 + sizeof offer) return std::nullopt;
  std::memcpy(&offer, words.data() + 1, sizeof offer);
  return offer;
}

std::string lack_in(ConstBytes words) {
  return {reinterpret_cast<const char*>(words.data()) + 1, words.size() - 1};
}

}  // namespace

// A look at the board for those who come to another collective instead: this rank's earlier calls
// are over when the round that it would publish next is that of `call`.
class DeviceGroup::Meeting : public Pollable {
 public:
  [[nodiscard]] bool differs() const {
    const Board::Round round = board_.next();
    for (int peer = 0; peer < board_.size(); ++peer) {
      if (!board_.published(peer, round)) continue;
      const Call& theirs = board_.call(peer, round);
      // Who was asked as well, and has the answer, may go on to that call.
      if (theirs.sequence == call_.sequence && theirs != call_ && (!asked_ || awaits(peer)))
        return true;
    }
    return false;
  }
  void result() const {}

  Meeting(DeviceGroup& group, const Call& call, bool asked)
      : group_(group), board_(group.segment_.board()), call_(call), asked_(asked) {}

 protected:
  ~Meeting() = default;

  // As in "rank 1, 3": those that it waits for.
  [[nodiscard]] std::string missing() const {
    std::string who;
    for (int rank = 0; rank < group_.size_; ++rank)
      if (awaits(rank)) who += text(who.empty() ? "rank " : ", ", rank);
    return who;
  }

  DeviceGroup& group_;

 private:
  const Board& board_;
  const Call call_;
  const bool asked_;
};

// Waits until ranks have told of their devices; one that lacks something is enough.
class DeviceGroup::Heard final : public Meeting {
 public:
  using Meeting::Meeting;

  bool ready() override {
    bool all = true;
    for (int rank = 0; rank < group_.size_; ++rank) {
      const auto words = group_.others_.told(rank);
      if (words && !offer_in(*words)) return true;
      all &= words.has_value();
    }
    return all || differs();
  }
  [[nodiscard]] bool awaits(int rank) const override {
    return rank < group_.size_ && !group_.others_.told(rank);
  }
  [[nodiscard]] std::string awaited() const override {
    return missing() + " to use its device in this group";
  }
};

// Waits until all have tried to open what the others offer.
class DeviceGroup::Judged final : public Meeting {
 public:
  using Meeting::Meeting;

  bool ready() override {
    for (int rank = 0; rank < group_.size_; ++rank)
      if (awaits(rank)) return differs();
    return true;
  }
  [[nodiscard]] bool awaits(int rank) const override {
    for (int of = 0; of < group_.size_; ++of) {
      const Found found = group_.others_.found(rank, of);
      if (rank != of && (found == Found::Unknown || found == Found::Met)) return true;
    }
    return false;
  }
  [[nodiscard]] std::string awaited() const override {
    return missing() + " to open the device memory of others";
  }
};

DeviceGroup::DeviceGroup(HostSegment& segment, Network& network, int size, std::string where)
    : process_(::getpid()),
      segment_(segment),
      others_(segment.introductions()),
      network_(network),
      size_(size),
      where_(std::move(where)) {
  if (env::read("QUOIT_IPC").value_or("") == "off") lack_ = "QUOIT_IPC=off";
  if (others_.size() < size_) lack_ = "the ranks are on several hosts";
  if (size_ > static_cast<int>(cuda::kMostPeers))
    lack_ = text("a group of ", size_, " ranks: one launch takes at most ", cuda::kMostPeers);
  // So that nobody waits to hear it.
  if (!lack_.empty()) {
    others_.tell(written(lack_));
    introduced_ = true;
  }
}

DeviceGroup::~DeviceGroup() {
  if (forked()) {  // a child has no part in what its parent has on a device
    static_cast<void>(edges_.release());
    static_cast<void>(scratch_.release());
    static_cast<void>(stream_.release());
    for (auto& [peer, window] : windows_) static_cast<void>(window.release());
    return;
  }
  leave();
  if (device_ == nullptr) return;
  CudaLegacy legacy;
  if (edges_) edges_->leave(legacy);
  lane_.reset();
  for (auto& [peer, window] : windows_) legacy.windows.push_back(std::move(window));
  if (scratch_) legacy.scratches.push_back(std::move(scratch_));
  if (stream_) legacy.streams.push_back(std::move(stream_));
  std::vector<std::optional<CudaOffer>> processes;
  std::vector<int> opened;
  for (int peer = 0; peer < others_.size(); ++peer) {
    const auto words = others_.told(peer);
    processes.push_back(words ? offer_in(*words) : std::nullopt);
    const Found found = others_.found(others_.rank(), peer);
    if (found == Found::Met || found == Found::Opened || found == Found::Kept)
      opened.push_back(peer);
  }
  // These live on in the group's memory, which is kept for them.
  legacy.closed = [others = others_, opened, keep = segment_.keep()]() mutable {
    for (const int peer : opened) others.found(peer, Found::Closed);
  };
  legacy.unused = [others = others_, processes, keep = segment_.keep()] {
    for (int peer = 0; peer < others.size(); ++peer) {
      if (peer == others.rank()) continue;
      const Found found = others.found(peer, others.rank());
      if (found == Found::Refused || found == Found::Closed) continue;
      const auto& offer = processes[static_cast<std::size_t>(peer)];
      if (!offer || is_running(offer->process, offer->start_time)) return false;
    }
    return true;
  };
  retire(*device_, std::move(legacy));
}

bool DeviceGroup::forked() const { return ::getpid() != process_; }

void DeviceGroup::leave() {
  if (forked()) return;
  for (int peer = 0; peer < others_.size(); ++peer)
    if (others_.found(others_.rank(), peer) == Found::Unknown) others_.found(peer, Found::Refused);
}

std::string DeviceGroup::lacks(const DeviceOrder& order) {
  try {
    sweep_legacies();
    cuda::require();
    kernels_ = &cuda::kernels();
    CudaDevice& device = CudaDevice::numbered(number_);
    if (std::string why = order.foreign(); !why.empty()) return why;
    if (std::string why = cuda::offered() ? "" : cuda::unfit(number_); !why.empty()) return why;
    device_ = &device;
    scratch_ = std::make_unique<CudaScratch>(device, DeviceLane::kScratch);
    stream_ = order.new_stream();
    edges_ = std::make_unique<DeviceEdges>(device, *kernels_, network_, [this](int peer) {
      const Found before = others_.found(others_.rank(), peer);
      if (before == Found::Unknown) others_.found(peer, Found::Met);
      if (before == Found::Refused) others_.found(peer, Found::Kept);
    });
    return {};
  } catch (const std::exception& error) {  // torch's, too
    return error.what();
  }
}

bool DeviceGroup::introduce(const DeviceOrder& order) {
  const std::scoped_lock lock(mutex_);
  if (!introduced_) {
    number_ = order.device();
    lack_ = lacks(order);
    others_.tell(lack_.empty() ? written(scratch_->offer()) : written(lack_));
    introduced_ = true;
    opening_ = lack_.empty();
  }
  if (!lack_.empty()) {
    tell(text("rank ", others_.rank(), ": ", lack_));
    return false;
  }
  QUOIT_CHECK(order.device() == number_, UsageError, "memory of CUDA device ", order.device(),
              ", but this group of this process is on ", number_,
              " since its first call: move it there, or set QUOIT_IPC=off");
  return true;
}

std::string_view DeviceGroup::route() {
  const std::scoped_lock lock(mutex_);
  if (introduced_ && !lack_.empty()) return "host";
  return !known_ ? "" : usable_ ? "ipc" : "host";
}

std::string DeviceGroup::lacking() {
  const std::scoped_lock lock(mutex_);
  if (introduced_ && !lack_.empty()) return text("rank ", others_.rank(), ": ", lack_);
  return known_ ? obstacle_ : "the ranks have not found out together";
}

bool DeviceGroup::open_offers() {
  const std::scoped_lock lock(mutex_);
  bool moved = false;
  bool all = true;
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == others_.rank()) continue;
    const auto words = others_.told(peer);
    all &= words.has_value();
    const Found found = others_.found(others_.rank(), peer);
    if (!words || !offer_in(*words) || (found != Found::Unknown && found != Found::Met)) continue;
    open(peer);
    moved = true;
  }
  if (all) opening_ = false;
  return moved;
}

void DeviceGroup::open(int peer) {
  try {
    windows_[peer] = std::make_unique<CudaWindow>(*device_, *offer_in(*others_.told(peer)));
    others_.found(peer, Found::Opened);
  } catch (const Error& error) {
    windows_.erase(peer);
    const bool met = others_.found(others_.rank(), peer) == Found::Met;
    others_.found(peer, met ? Found::Kept : Found::Refused);
    tell(text("rank ", peer, ": ", error.what()));
  }
}

// The same on whichever rank asks.
std::string DeviceGroup::obstacle(int a, int b) const {
  for (const int rank : {a, b})
    if (const auto words = others_.told(rank); words && !offer_in(*words))
      return text("rank ", rank, ": ", lack_in(*words));
  if (a == b) return {};
  for (const auto& [finder, of] : {std::pair(a, b), std::pair(b, a)})
    if (const Found found = others_.found(finder, of);
        found == Found::Refused || found == Found::Kept)
      return text("rank ", finder, " cannot use the device memory of rank ", of);
  return {};
}

void DeviceGroup::tell(const std::string& obstacle) {
  if (log::debug() && told_.insert(obstacle).second)
    log::write(text("[quoit ", where_, "] no CUDA IPC: ", obstacle));
}

Task DeviceGroup::meet(Call call, bool asked) {
  Heard heard(*this, call, asked);
  co_await heard;
  if (heard.differs()) co_return;
  std::string why;
  const auto find = [&] {
    for (int a = 0; a < size_ && why.empty(); ++a)
      for (int b = 0; b <= a && why.empty(); ++b) why = obstacle(a, b);
  };
  find();
  if (why.empty()) {
    Judged judged(*this, call, asked);
    co_await judged;
    find();
    if (why.empty() && judged.differs()) co_return;
  }
  const std::scoped_lock lock(mutex_);
  usable_ = why.empty();
  if (usable_ && !lane_) {
    std::vector<const CudaWindow*> windows(static_cast<std::size_t>(size_));
    for (const auto& [peer, window] : windows_)
      windows[static_cast<std::size_t>(peer)] = window.get();
    lane_ = std::make_unique<DeviceLane>(*device_, *kernels_, segment_.board(), *scratch_,
                                         std::move(windows), *stream_);
    if (log::debug()) log::write(text("[quoit ", where_, "] collectives go by CUDA IPC"));
  }
  if (!usable_) tell(why);
  obstacle_ = why;
  known_ = true;
}

}  // namespace quoit
