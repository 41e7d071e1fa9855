// Copies, plain and streaming, at every alignment; and the choice between them, on a made-up
// machine whose speed the test sets. Prints what failed; returns non-zero then.
#include <array>
#include <vector>

#include "checks.h"
#include "core/copy.h"
#include "transport/slot_writer.h"

using namespace quoit;

namespace {

void copies_are_exact() {
  constexpr std::size_t kRoom = 20000;
  std::vector<std::byte> from(kRoom), to(kRoom);
  for (std::size_t i = 0; i < kRoom; ++i) from[i] = static_cast<std::byte>(i * 131 + i / 251);
  for (const auto copy : {copy_bytes, stream_bytes}) {
    for (const std::size_t bytes : {0, 1, 15, 64, 1023, 1024, 1025, 1100, 2049, 4097, 16384}) {
      for (const std::size_t shift : {0, 1, 16, 63}) {
        for (const std::size_t into : {0, 8, 33, 64}) {
          std::fill(to.begin(), to.end(), std::byte{0xee});
          copy(from.data() + shift, to.data() + into, bytes);
          bool exact = true;
          for (std::size_t i = 0; i < kRoom; ++i) {
            const bool inside = i >= into && i < into + bytes;
            exact = exact && to[i] == (inside ? from[i - into + shift] : std::byte{0xee});
          }
          EXPECT(exact, "a copy of ", bytes, " bytes from +", shift, " to +", into);
        }
      }
    }
  }
}

using Way = SlotWriter::Way;

// Speeds of a machine, in seconds per MiB, by Way.
struct Machine {
  std::array<double, SlotWriter::kWays> costs;
};

// Makes calls of `bytes` on two ranks, of which the first decides; returns the share of the calls
// that went each way. `readable` on the rank that decides.
std::array<double, SlotWriter::kWays> shares(std::array<SlotWriter, 2>& ranks, Machine machine,
                                             std::size_t bytes, int calls, bool readable = true,
                                             Op op = Op::AllGather) {
  std::array<double, SlotWriter::kWays> went{};
  for (int call = 0; call < calls; ++call) {
    for (SlotWriter& rank : ranks) rank.begin(op, bytes);
    const Way way = ranks[0].way();
    EXPECT(way == ranks[1].way(), "ranks go the same way in call ", call);
    const Way next = ranks[0].decide(readable);
    for (SlotWriter& rank : ranks) rank.agree(next);
    const auto index = static_cast<std::size_t>(way);
    ranks[0].record(machine.costs[index] * static_cast<double>(bytes) / (1 << 20));
    went[index] += 1.0 / calls;
  }
  return went;
}

double share_of(Way way, const std::array<double, SlotWriter::kWays>& went) {
  return went[static_cast<std::size_t>(way)];
}

constexpr Machine kNear{{1e-4, 2e-4, 3e-4}}, kFar{{3e-4, 1.5e-4, 2e-4}},
    kDirect{{3e-4, 2e-4, 1e-4}};

// Until each of the two other ways has been tried twice, when trials are rarest.
constexpr int kSettle = 4 * Trials<SlotWriter::kWays>::kLongestCycle;

void the_fastest_way_is_found() {
  for (const std::size_t bytes : {std::size_t{1} << 20, std::size_t{64} << 20}) {
    std::array<SlotWriter, 2> ranks;
    shares(ranks, kNear, bytes, 20);
    EXPECT(share_of(Way::Plain, shares(ranks, kNear, bytes, 512)) > 0.95, "near caches: plain");
    shares(ranks, kFar, bytes, kSettle);  // the ranks moved apart: found by the next probes
    EXPECT(share_of(Way::Streaming, shares(ranks, kFar, bytes, 512)) > 0.95, "far: streaming");
    shares(ranks, kDirect, bytes, kSettle);
    EXPECT(share_of(Way::InPlace, shares(ranks, kDirect, bytes, 512)) > 0.95, "in place");
    shares(ranks, kNear, bytes, kSettle);  // and back
    EXPECT(share_of(Way::Plain, shares(ranks, kNear, bytes, 512)) > 0.95, "near again: plain");
  }
}

void ways_that_are_not_open_are_not_gone() {
  constexpr std::size_t kLong = std::size_t{4} << 20;
  std::array<SlotWriter, 2> ranks;
  EXPECT(share_of(Way::InPlace, shares(ranks, kDirect, kLong, 512, false)) == 0, "not readable");
  EXPECT(share_of(Way::InPlace, shares(ranks, kDirect, 1 << 20, 512, true, Op::AllReduce)) == 0,
         "an all_reduce that is not worth reading twice");
  EXPECT(share_of(Way::InPlace, shares(ranks, kDirect, kLong, 512, true, Op::AllReduce)) > 0.9,
         "one that is");
  // One call is late: its way was decided in the one before.
  EXPECT(share_of(Way::InPlace, shares(ranks, kDirect, kLong, 512, true)) > 0.9, "readable now");
  shares(ranks, kDirect, kLong, 1, false);
  EXPECT(share_of(Way::InPlace, shares(ranks, kDirect, kLong, 64, false)) == 0, "no longer");
  EXPECT(share_of(Way::Streaming, shares(ranks, kFar, 256 * 1024, 512)) == 0,
         "what stays in cache is not streamed");
  EXPECT(share_of(Way::InPlace, shares(ranks, kDirect, 256 * 1024, 512)) > 0.9, "but read");
  EXPECT(share_of(Way::Plain, shares(ranks, kDirect, 16 * 1024, 512)) == 1, "small: plain");
  EXPECT(share_of(Way::InPlace, shares(ranks, kDirect, 256 * 1024, 64)) > 0.9,
         "which another size does not forget");
}

// A lost core makes one trial long; that does not make the way a slow one.
void a_trial_that_was_disturbed_is_forgotten() {
  std::array<SlotWriter, 2> ranks;
  shares(ranks, kDirect, 1 << 20, 64);
  shares(ranks, {{3e-4, 2e-4, 1e-2}}, 1 << 20, 1);
  shares(ranks, kDirect, 1 << 20, 256);
  EXPECT(share_of(Way::InPlace, shares(ranks, kDirect, 1 << 20, 512)) > 0.95, "in place again");
}

}  // namespace

int main() {
  copies_are_exact();
  the_fastest_way_is_found();
  ways_that_are_not_open_are_not_gone();
  a_trial_that_was_disturbed_is_forgotten();
  return quoit::test::verdict();
}
