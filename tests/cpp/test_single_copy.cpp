// Memory that other ranks read where it lies, by the kernel: between processes; collectives in
// which some give so and others by slots; messages that are offered, late, given up, or of no use.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

#include "transport/peer_memory.h"
#include "world.h"

using namespace quoit;
using namespace quoit::test;

namespace {

constexpr std::size_t kMany = 300'001;  // floats: several slots, and no whole number of them

// ---- Between two processes.

struct Shared {
  alignas(64) std::byte cards[256];
  std::atomic<int> step;
  std::uint64_t address;
};

Shared& shared_memory() {
  void* const memory =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  EXPECT(memory != MAP_FAILED, "no shared memory");
  return *static_cast<Shared*>(memory);
}

void await(const Shared& shared, int step) {
  while (shared.step.load() < step) ::usleep(100);
}

// A process that is rank 7 of a group, has words to read, and ends when it is told to.
pid_t fork_owner(Shared& shared, SingleCopy when) {
  const pid_t child = ::fork();
  if (child > 0) return child;
  const std::vector<std::uint32_t> words(100'000, 0xabcdefU);
  PeerMemory memory(shared.cards, 1, {4, 7}, when);
  shared.address = reinterpret_cast<std::uintptr_t>(words.data());
  shared.step = 1;
  await(shared, 2);
  static_cast<void>(memory.usable());
  shared.step = 3;
  await(shared, 4);
  ::_exit(0);
}

void between_processes() {
  for (const SingleCopy theirs : {SingleCopy::Auto, SingleCopy::Always, SingleCopy::Never}) {
    Shared& shared = shared_memory();
    const pid_t child = fork_owner(shared, theirs);
    PeerMemory memory(shared.cards, 0, {4, 7}, SingleCopy::Auto);
    await(shared, 1);
    EXPECT(!memory.usable(), "usable before the other side has found out");
    shared.step = 2;
    await(shared, 3);
    const bool usable = theirs != SingleCopy::Never;
    EXPECT(memory.usable() == usable, "usable");
    std::vector<std::uint32_t> got(100'000);
    auto* const into = reinterpret_cast<std::byte*>(got.data());
    const std::size_t bytes = got.size() * sizeof got[0];
    EXPECT(memory.exposes(into, bytes) == usable, "exposes");
    if (usable) {
      // What is mapped, but may not be touched, is no memory to give.
      void* const hole = ::mmap(nullptr, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      EXPECT(!memory.exposes(static_cast<std::byte*>(hole), 8192), "exposes a hole");
      memory.read(1, shared.address, into, bytes);
      EXPECT(got == std::vector<std::uint32_t>(100'000, 0xabcdefU), "what was read");
      contains(error_of([&] { memory.read(1, 4096, into, bytes); }),
               text("rank 7 (process ", child, " on this host) gave 400000 bytes"));
    }
    shared.step = 4;
    ::waitpid(child, nullptr, 0);
    if (usable)
      contains(error_of([&] { memory.read(1, shared.address, into, bytes); }),
               text("rank 7 died (process ", child, " on this host)"));
    ::munmap(&shared, sizeof shared);
  }
}

// ---- Collectives.

float sum_of(std::size_t i, int n) {
  float sum = 0;
  for (int r = 0; r < n; ++r) sum += value(i, r);
  return sum;
}

// Some ranks' parts lie together, and are read there; others' do not.
void mixed(Communicator& c) {
  const auto n = static_cast<std::size_t>(c.size());
  const bool together = c.rank() % 2 == 0;
  const std::size_t stride = together ? kMany : kMany + 3;
  std::vector<float> parts(n * stride), taken(n * kMany), sum(kMany);
  std::vector<View> ins, outs;
  for (std::size_t r = 0; r < n; ++r) {
    for (std::size_t i = 0; i < kMany; ++i)
      parts[r * stride + i] = value(i, 3 * c.rank() + static_cast<int>(r));
    ins.push_back(view(parts, DType::Float32).at({r * stride, kMany}));
    outs.push_back(view(taken, DType::Float32).at({r * kMany, kMany}));
  }
  wait(c, c.all_to_all(ins, outs, false));
  for (std::size_t r = 0; r < n; ++r)
    for (std::size_t i = 0; i < kMany; ++i)
      EXPECT(taken[r * kMany + i] == value(i, 3 * static_cast<int>(r) + c.rank()), "all_to_all");
  wait(c, c.reduce_scatter(ins, view(sum, DType::Float32), {}));
  for (std::size_t i = 0; i < kMany; ++i) {
    float expected = 0;
    for (int r = 0; r < c.size(); ++r) expected += value(i, 3 * r + c.rank());
    EXPECT(sum[i] == expected, "reduce_scatter at ", i);
  }
  std::fill(parts.begin(), parts.end(), -1.0F);  // everybody has read it
}

// Results that overwrite what was given to others.
void in_place(Communicator& c) {
  const auto n = static_cast<std::size_t>(c.size());
  std::vector<float> data(n * kMany);
  std::vector<View> blocks;
  for (std::size_t r = 0; r < n; ++r) {
    for (std::size_t i = 0; i < kMany; ++i)
      data[r * kMany + i] = value(i, 3 * c.rank() + static_cast<int>(r));
    blocks.push_back(view(data, DType::Float32).at({r * kMany, kMany}));
  }
  wait(c, c.all_to_all(blocks, blocks, false));
  for (std::size_t r = 0; r < n; ++r)
    for (std::size_t i = 0; i < kMany; ++i)
      EXPECT(data[r * kMany + i] == value(i, 3 * static_cast<int>(r) + c.rank()), "in place");
  wait(c, c.barrier());
}

// Sums in one round and in several, the last of them short; an input apart from the output stays as
// it was.
void sums(Communicator& c) {
  for (const std::size_t count : {kMany / 3, 4 * kMany}) {
    const std::vector<float> given = filled(count, c.rank());
    std::vector<float> in = given, out(count), both = given;
    wait(c, c.all_reduce(view(in, DType::Float32), view(out, DType::Float32), {}));
    for (std::size_t i = 0; i < count; ++i)
      EXPECT(out[i] == sum_of(i, c.size()), "all_reduce at ", i);
    EXPECT(in == given, "the input of an all_reduce");
    wait(c, c.all_reduce(view(both, DType::Float32), view(both, DType::Float32), {}));
    EXPECT(both == out, "an all_reduce in place");
  }
}

// ---- Messages, of 2 ranks.

void late_receives(Communicator& c) {
  std::vector<float> first = filled(kMany, 1), second = filled(kMany + 1, 2), small = filled(3, 3);
  if (c.rank() == 0) {
    const auto a = c.send(view(first, DType::Float32), 1, 5);
    const auto b = c.send(view(second, DType::Float32), 1, 6);
    const auto d = c.send(view(small, DType::Float32), 1, 5);
    for (const auto& work : {a, b, d}) wait(c, work);
    wait(c, c.barrier());
    return;
  }
  std::vector<float> one(kMany), two(kMany + 1), three(3);
  wait(c, c.recv(view(two, DType::Float32), kAnySource, 6));  // the second one first
  EXPECT(two == second, "the second message");
  ::usleep(50'000);  // its patience ends: the first one is put aside
  wait(c, c.recv(view(one, DType::Float32), 0, 5));
  EXPECT(one == first, "the first message");
  wait(c, c.recv(view(three, DType::Float32), 0, 5));
  EXPECT(three == small, "the small one behind it");
  wait(c, c.barrier());
}

// Nobody has posted a receive while all wait for their sends.
void both_send_first(Communicator& c) {
  std::vector<float> mine = filled(kMany, c.rank()), theirs(kMany);
  for (int repeat = 0; repeat < 3; ++repeat) {
    wait(c, c.send(view(mine, DType::Float32), 1 - c.rank(), 1));
    wait(c, c.recv(view(theirs, DType::Float32), 1 - c.rank(), 1));
    EXPECT(theirs == filled(kMany, 1 - c.rank()), "what came");
  }
}

// More at a time than there are places for offers.
void many_at_once(Communicator& c) {
  constexpr std::size_t kMessages = 50, kFloats = 10'000;
  std::vector<std::vector<float>> data;
  std::vector<Communicator::Handle> works;
  for (std::size_t m = 0; m < kMessages; ++m) {
    data.push_back(c.rank() == 0 ? filled(kFloats, static_cast<int>(m))
                                 : std::vector<float>(kFloats));
    works.push_back(c.rank() == 0 ? c.send(view(data[m], DType::Float32), 1, 2)
                                  : c.recv(view(data[m], DType::Float32), 0, 2));
  }
  for (const auto& work : works) wait(c, work);
  for (std::size_t m = 0; m < kMessages; ++m)
    EXPECT(data[m] == filled(kFloats, static_cast<int>(m)), "message ", m);
}

void of_another_size(Communicator& c) {
  std::vector<float> data = filled(c.rank() == 0 ? kMany : kMany - 1, 1);
  if (c.rank() == 0) {
    wait(c, c.send(view(data, DType::Float32), 1, 3));
  } else {
    contains(error_of([&] { wait(c, c.recv(view(data, DType::Float32), 0, 3)); }),
             text("rank 0 sent ", 4 * kMany, " bytes, this rank expected ", 4 * (kMany - 1)));
  }
  wait(c, c.barrier());
}

// A send that ran out of time: its memory may hold anything by now, and nobody may take it for the
// message. The receiver's engine sleeps meanwhile, as nobody of that rank waits.
void given_up(Communicator& c) {
  if (c.rank() == 0) {
    std::vector<float> data = filled(kMany, 1);
    contains(error_of([&] {
               CallOptions brief;
               brief.timeout = Seconds(0.2);
               wait(c, c.send(view(data, DType::Float32), 1, 4, brief));
             }),
             "send");
    std::fill(data.begin(), data.end(), -1.0F);
    wait(c, c.barrier());
    wait(c, c.barrier());
  } else {
    ::usleep(600'000);
    wait(c, c.barrier());
    std::vector<float> got(kMany);
    contains(error_of([&] { wait(c, c.recv(view(got, DType::Float32), 0, 4)); }),
             text("rank 0 gave up a message of ", 4 * kMany, " bytes"));
    wait(c, c.barrier());
  }
  both_send_first(c);
}

}  // namespace

int main() {
  between_processes();
  for (const int ranks : {2, 3, 5}) {
    auto world = make_world(hosts_of(ranks, 1), "auto", 60, "auto", SingleCopy::Always);
    for (int repeat = 0; repeat < 2; ++repeat) {
      on_all(world, mixed);
      on_all(world, in_place);
      on_all(world, sums);
    }
  }
  for (const SingleCopy when : {SingleCopy::Always, SingleCopy::Never, SingleCopy::Auto}) {
    auto world = make_world(hosts_of(2, 1), "auto", 60, "auto", when);
    for (int repeat = 0; repeat < 20; ++repeat) {
      on_all(world, late_receives);
      on_all(world, both_send_first);
      on_all(world, many_at_once);
      on_all(world, of_another_size);
    }
  }
  auto world = make_world(hosts_of(2, 1), "auto", 60, "auto", SingleCopy::Always);
  on_all(world, both_send_first);
  on_all(world, given_up);
}
