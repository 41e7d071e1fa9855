#pragma once
// Long messages between two ranks of a host that are not put into their pipe: the sender only
// offers them, and once their receive is there the reader has the kernel copy them from where they
// lie (PeerMemory). Which way is faster the reader finds out; the sender does as it wishes.
#include <array>
#include <list>
#include <memory>
#include <string>

#include "core/clock.h"
#include "transport/bell.h"
#include "transport/mailbox.h"
#include "transport/peer_memory.h"
#include "transport/trials.h"

namespace quoit {

// Shorter messages always go by the pipe.
inline constexpr std::size_t kLongMessage = 16 * 1024;

// Follows the frame of a long message in the pipe.
struct LongFrame {
  std::uint64_t address = 0;  // where it lies
  std::int64_t sent = 0;      // when its sender turned to it, in nanoseconds
  std::uint64_t offer = 0;    // its number in the table, from 1; 0: its bytes follow in the pipe
};

std::int64_t nanoseconds_now();

// What a receive fails with whose sender did not go through with it.
std::string gave_up(int rank, std::size_t bytes);

// What both sides of a pipe know of offers; zeroed at birth.
struct OfferTable {
  static constexpr std::size_t kOffers = 16;
  static constexpr std::size_t kKinds = 12;  // of sizes: the last one is for all from 32 MiB on

  // Offered by the sender, Taken while the reader reads, Done when it has read all; Withdrawn when
  // the sender gave up meanwhile, and the reader must not use what it read.
  enum State : std::uint32_t { Free, Offered, Taken, Done, Withdrawn };

  std::array<std::atomic<std::uint32_t>, kOffers> states;
  alignas(64) std::atomic<std::uint32_t> wanted;  // by the reader: a bit for each kind of sizes

  static std::uint32_t bit(std::size_t bytes) {
    return std::uint32_t{1} << size_kind(bytes, kLongMessage, kKinds);
  }
};

class OffersOut {
 public:
  // The table is kept alive by `keep`.
  OffersOut(OfferTable& table, PeerMemory& memory, std::shared_ptr<void> keep)
      : table_(&table), memory_(&memory), keep_(std::move(keep)) {}

  // Offers a message, if the reader wants it so and can read it: its number, else 0.
  std::uint64_t offer(ConstBytes data, const std::shared_ptr<Transfer::State>& state);

  // Completes what has been read; true if anything was.
  bool settle();

 private:
  struct Message {
    std::size_t index;
    std::shared_ptr<Transfer::State> state;
  };

  OfferTable* table_;
  PeerMemory* memory_;
  std::shared_ptr<void> keep_;
  std::list<Message> open_;
};

class OffersIn {
 public:
  // From a member of the host, who is woken by `bell`.
  OffersIn(OfferTable& table, PeerMemory& memory, int member, Bell& bell, Mailbox& mailbox)
      : table_(&table), memory_(&memory), member_(member), bell_(&bell), mailbox_(&mailbox) {}

  // A message was offered, which the mailbox expects.
  void add(Arrival& arrival, const LongFrame& frame);

  // Reads some of what is waited for; true if anything was.
  bool fetch();

  // The head of a message came whose receive is not there yet, and whose bytes follow.
  void comes_early(std::size_t bytes);

  // A message came by the pipe whose receive was there before it.
  void came_by_pipe(std::size_t bytes, std::int64_t sent) { learn(kPipe, bytes, sent); }

 private:
  enum Way : std::size_t { kPipe, kOffer };
  struct Message {
    Arrival* arrival;
    LongFrame frame;
    bool prompt;        // its receive was there before it
    std::int64_t came;  // in nanoseconds
    std::size_t fetched = 0;
  };

  bool advance(Message& message);
  void learn(Way way, std::size_t bytes, std::int64_t sent);
  void judge(Way way, std::size_t bytes, double cost);

  OfferTable* table_;
  PeerMemory* memory_;
  int member_;
  Bell* bell_;
  Mailbox* mailbox_;
  std::list<Message> open_;
  std::int64_t last_done_ = 0;  // when the message before was there, in nanoseconds
  std::array<Trials<2>, OfferTable::kKinds> trials_{};
};

}  // namespace quoit
