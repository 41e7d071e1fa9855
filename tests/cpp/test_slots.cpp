// Copies, plain and streaming, at every alignment; and the choice between them, on a made-up
// machine whose speed the test sets. Prints what failed; returns non-zero then.
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

// Speeds of a machine, in seconds per MiB.
struct Machine {
  double plain, streaming;
};

// Makes calls of `bytes` in rounds of 128 KiB; returns the share of rounds that streamed.
double share_streamed(SlotWriter& writer, Machine machine, std::size_t bytes, int calls) {
  constexpr std::size_t kRound = 128 * 1024;
  static Clock::time_point now = Clock::now();
  int rounds = 0, streamed = 0;
  for (int call = 0; call < calls; ++call) {
    writer.begin(Op::AllReduce, bytes);
    for (std::size_t moved = 0; moved < bytes; moved += kRound) {
      const bool streams = writer.way() == SlotWriter::Way::Streaming;
      const double seconds = (streams ? machine.streaming : machine.plain) / 8;
      now += std::chrono::duration_cast<Clock::duration>(Seconds(seconds));
      writer.record(kRound, now);
      ++rounds;
      streamed += streams;
    }
  }
  return static_cast<double>(streamed) / rounds;
}

void the_faster_way_is_found() {
  constexpr Machine kNear{1e-4, 2e-4}, kFar{3e-4, 1.5e-4};
  for (const std::size_t bytes : {std::size_t{1} << 20, std::size_t{64} << 20}) {
    SlotWriter writer;
    share_streamed(writer, kNear, bytes, 20);
    EXPECT(share_streamed(writer, kNear, bytes, 512) < 0.05, "near caches: plain");
    share_streamed(writer, kFar, bytes, 20);  // the ranks moved apart
    EXPECT(share_streamed(writer, kFar, bytes, 512) > 0.95, "far caches: streaming");
    share_streamed(writer, kNear, bytes, 200);  // and back: found by the next probe
    EXPECT(share_streamed(writer, kNear, bytes, 512) < 0.05, "near again: plain");
  }
}

void small_calls_stay_in_cache() {
  SlotWriter writer;
  share_streamed(writer, {3e-4, 1e-4}, std::size_t{64} << 20, 4);
  EXPECT(share_streamed(writer, {3e-4, 1e-4}, 256 * 1024, 64) == 0, "small calls are plain");
}

}  // namespace

int main() {
  copies_are_exact();
  the_faster_way_is_found();
  small_calls_stay_in_cache();
  return quoit::test::verdict();
}
