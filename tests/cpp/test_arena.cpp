// Memory that ranks read in place: what the arena hands out, and collectives on it.
#include <cstring>

#include "world.h"

using namespace quoit;
using namespace quoit::test;

namespace {

constexpr std::size_t kCount = 100'003;  // float32: several rounds, and more than is worth mapping

void allocation() {
  Arena arena;
  const auto first = arena.allocate(300'000);
  EXPECT(reinterpret_cast<std::uintptr_t>(first.get()) % Arena::kAlignment == 0, "not aligned");
  EXPECT(!arena.place_of(first.get() - 1, 1).shared(), "a place before the memory");
  EXPECT(!arena.place_of(first.get() + 299'999, 1'000'000).shared(), "a place beyond the memory");
  const Place place = arena.place_of(first.get() + 1000, 299'000);
  EXPECT(place.shared() && place.offset == 1000, "no place inside the memory");
  std::memcpy(first.get() + 1000, "seen", 4);
  EXPECT(std::memcmp(arena.window(place), "seen", 4) == 0, "the window shows something else");

  // Freed memory serves the next one of about its size, and others do not.
  auto second = arena.allocate(500'000);
  std::byte* const where = second.get();
  second.reset();
  EXPECT(!arena.place_of(where, 1).shared(), "freed memory has a place");
  EXPECT(arena.allocate(5'000'000).get() != where, "too small a region was handed out");
  EXPECT(arena.allocate(499'000).get() == where, "freed memory was not used again");

  // It outlives the arena, as tensors outlive groups.
  std::shared_ptr<std::byte> last;
  {
    Arena shortlived;
    last = shortlived.allocate(4096);
  }
  last.get()[4095] = std::byte{1};
}

std::shared_ptr<std::byte> memory(Communicator& c, std::size_t count, bool in_arena) {
  if (in_arena) return c.engine().arena().allocate(count * sizeof(float));
  const std::shared_ptr<float[]> own(new float[count]);
  return {own, reinterpret_cast<std::byte*>(own.get())};
}

View filled_view(std::byte* data, std::size_t count, int rank) {
  const std::vector<float> values = filled(count, rank);
  std::memcpy(data, values.data(), count * sizeof(float));
  return {data, count, DType::Float32};
}

float at(const View& view, std::size_t i) {
  float one = 0;
  std::memcpy(&one, view.data + i * sizeof one, sizeof one);
  return one;
}

float sum_of(std::size_t i, int n) {
  float sum = 0;
  for (int r = 0; r < n; ++r) sum += value(i, r);
  return sum;
}

// `who(rank)`: whether that rank's memory is in an arena.
template <class Who>
void collectives(Communicator& c, Who who) {
  const int n = c.size();
  const auto ranks = static_cast<std::size_t>(n);
  const auto me = static_cast<std::size_t>(c.rank());

  const auto sums = memory(c, kCount, who(c.rank()));
  const View sum = filled_view(sums.get(), kCount, c.rank());
  wait(c, c.all_reduce(sum, sum, {}));
  for (std::size_t i = 0; i < kCount; ++i)
    EXPECT(at(sum, i) == sum_of(i, n), "all_reduce at ", i, ": ", at(sum, i));

  // In place in the output, as FSDP2 does it; then back.
  const auto whole = memory(c, ranks * kCount, who(c.rank()));
  std::vector<View> blocks;
  for (std::size_t r = 0; r < ranks; ++r)
    blocks.push_back({whole.get() + r * kCount * sizeof(float), kCount, DType::Float32});
  filled_view(blocks[me].data, kCount, c.rank());
  wait(c, c.all_gather(blocks[me], blocks));
  for (std::size_t r = 0; r < ranks; ++r)
    for (std::size_t i = 0; i < kCount; ++i)
      EXPECT(at(blocks[r], i) == value(i, static_cast<int>(r)), "all_gather of ", r, " at ", i);

  std::vector<float> mine(kCount);
  wait(c, c.reduce_scatter(blocks, view(mine, DType::Float32), {}));
  for (std::size_t i = 0; i < kCount; ++i)
    EXPECT(mine[i] == static_cast<float>(n) * value(i, c.rank()), "reduce_scatter at ", i);
  // The others have read my blocks: they may change at once.
  std::memset(whole.get(), 0, ranks * kCount * sizeof(float));
}

}  // namespace

int main() {
  allocation();
  for (const auto& [ranks, hosts] : {std::pair{1, 1}, {2, 1}, {3, 1}, {4, 2}, {5, 2}}) {
    auto world = make_world(hosts_of(ranks, hosts));
    for (int repeat = 0; repeat < 3; ++repeat) {
      on_all(world, [](Communicator& c) { collectives(c, [](int) { return true; }); });
      on_all(world, [](Communicator& c) { collectives(c, [](int r) { return r % 2 == 0; }); });
      on_all(world, [](Communicator& c) { collectives(c, [](int) { return false; }); });
    }
  }
}
