#pragma once
// Transports move bytes between two ranks of one group. Everything here is called under the lock of
// the engine that drives the group, so one transport is never entered by two threads at once.
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/pollable.h"
#include "core/types.h"

namespace quoit {

// Messages match by (sender, tag), in the order they were sent. User tags are >= 0; the collectives
// of a group and its fault notices have streams of their own.
using Tag = std::int64_t;
inline constexpr Tag kCollectiveTag = -1;
inline constexpr Tag kFaultTag = -2;
inline constexpr Tag kGreetingTag = -4;
// Of collectives on memory of devices. A transport that takes such memory holds these messages back
// until it is known where they belong.
inline constexpr Tag kDeviceTag = -7;
inline constexpr int kAnySource = -1;

// In a tag that a user gave: the message only announces one, whose bytes come in another way. Who
// receives with that tag gets either, in the order in which they were sent.
inline constexpr Tag kAnnounced = Tag{1} << 62;

// What may arrive in memory that waits for a message: as many bytes as it has; any number, of which
// those are kept for which there is room; any number, in memory of their own (Transfer::whole); or
// as many bytes as the memory has, which is a device's: there once it is open (Transfer::open), or,
// where the transport cannot write it or the message came first, in memory of their own.
enum class Fit : std::uint8_t { Exact, Any, Whole, Device };

// One movement in flight. Destroying it before it is done cancels it: its buffer is not touched any
// more, if the transport cancels().
class Transfer final : public Pollable {
 public:
  struct State {
    std::atomic<bool> done{false};  // set last; loopback sets it from the peer's thread
    std::atomic<bool> cancelled{false};
    int peer = kAnySource;   // the other side; of a receive from any source, once it is done
    std::size_t size = 0;    // bytes of the message that a receive got
    bool announced = false;  // the message is an announcement
    bool closed = false;     // the memory may not be written yet
    std::unique_ptr<std::byte[]> whole;
    std::string error;  // empty when it went well
    // Of a send whose memory the other side may be reading: what to do when it is cancelled.
    std::function<void()> withdraw;

    void complete() { done.store(true, std::memory_order_release); }
    void fail(std::string why) {
      error = std::move(why);
      complete();
    }
  };

  explicit Transfer(std::shared_ptr<State> state) : state_(std::move(state)) {}
  Transfer(Transfer&&) noexcept = default;
  Transfer& operator=(Transfer&& other) noexcept {
    cancel();
    state_ = std::move(other.state_);
    return *this;
  }
  ~Transfer() { cancel(); }

  bool ready() override { return state_->done.load(std::memory_order_acquire); }

  [[nodiscard]] bool awaits(int rank) const override {
    return !state_->done && state_->peer == rank;
  }

  [[nodiscard]] std::string awaited() const override {
    return state_->peer == kAnySource ? "any rank" : text("rank ", state_->peer);
  }

  // Call when ready. Throws TransportError when the movement failed; returns who the peer was.
  int result() const {
    QUOIT_CHECK(state_->error.empty(), TransportError, state_->error);
    return state_->peer;
  }

  // Bytes of the message that was received, whether or not there was room for all of them.
  [[nodiscard]] std::size_t size() const { return state_->size; }

  // Whether what was received only announces a message: then it is in whole().
  [[nodiscard]] bool announced() const { return state_->announced; }
  [[nodiscard]] ConstBytes whole() const { return {state_->whole.get(), state_->size}; }

  // Of a receive with Fit::Device: its memory may be written from now on.
  void open() { state_->closed = false; }

 private:
  void cancel() {
    if (!state_ || state_->done.load(std::memory_order_acquire)) return;
    state_->cancelled = true;
    if (state_->withdraw) state_->withdraw();
  }

  std::shared_ptr<State> state_;
};

// Why nothing more comes from a rank that left in good order.
inline std::string left_the_group(int rank) {
  return text("rank ", rank,
              " left the group: it destroyed its process group, or its program ended");
}

// Why nothing more comes from a rank of this host whose process is gone.
inline std::string died(int rank, int pid) {
  return text("rank ", rank, " died (process ", pid,
              " on this host): look for its own error message, or for the out-of-memory killer");
}

class Transport {
 public:
  virtual ~Transport() = default;

  [[nodiscard]] virtual std::string_view name() const = 0;

  // Begins to send `data` to rank `to` (of the group); ordered per peer; zero bytes are a message
  // too. `data` must live until the transfer is done.
  [[nodiscard]] virtual Transfer send(int to, Tag tag, ConstBytes data) = 0;

  // A message from rank `from` is waited for: a transport that connects when needed does it now, so
  // that the death of that rank is noticed.
  virtual void expect(int /*from*/) {}

  // Moves what can be moved without waiting and delivers what arrived to the group's mailbox; true
  // when anything moved.
  virtual bool progress() = 0;

  // Why this transport can carry no more (a peer died or left), or nothing while all is well. Slow
  // (system calls): asked a few times a second, by those who have waited long.
  virtual std::optional<std::string> failure() = 0;

  // Why nothing more will come from `peer`, which left in good order; or nothing.
  virtual std::optional<std::string> departed(int /*peer*/) { return std::nullopt; }

  // Whether a cancelled transfer's memory is left alone. If not (MPI cannot take back what it
  // began), whoever cancels keeps the memory for good.
  [[nodiscard]] virtual bool cancels() const = 0;

  // Whether it moves memory of devices as well.
  [[nodiscard]] virtual bool takes_device_memory() const { return false; }

  // Whether an arrival rings the bell of a sleeping process. If not, sleeps are kept short.
  [[nodiscard]] virtual bool rings_bell() const = 0;

  // The process is about to sleep: the next arrival shall ring its bell, if that takes preparation.
  virtual void arm_bell() {}
};

}  // namespace quoit
