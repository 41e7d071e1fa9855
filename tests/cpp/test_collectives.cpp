// Every collective, over shared memory, over messages and over both, with exact inputs and results.
#include <cstring>

#include "world.h"

using namespace quoit;
using namespace quoit::test;

namespace {

// Many rounds of the board and segments of the ring; fewer where every access is watched.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kLarge = 140'001;
#else
constexpr std::size_t kLarge = 300'001;
#endif

float sum_at(std::size_t index, int n) {
  float sum = 0;
  for (int r = 0; r < n; ++r) sum += value(index, r);
  return sum;
}

void all_reduce(Communicator& c, std::size_t count) {
  const int n = c.size();
  const std::vector<float> mine = filled(count, c.rank());
  const auto run = [&](Reduction reduction, bool in_place, auto expected) {
    std::vector<float> in = mine;
    std::vector<float> out(count, -1.0F);
    std::vector<float>& result = in_place ? in : out;
    wait(c, c.all_reduce(view(in, DType::Float32), view(result, DType::Float32), reduction));
    for (std::size_t i = 0; i < count; ++i)
      EXPECT(result[i] == expected(i), "all_reduce n=", n, " count=", count, " rank=", c.rank(),
             " op=", name_of(reduction.op), " index=", i, ": got ", result[i], ", expected ",
             expected(i));
    if (!in_place) EXPECT(in == mine, "all_reduce changed its input");
  };
  const auto most = [n](std::size_t i) {
    float best = value(i, 0);
    for (int r = 1; r < n; ++r) best = std::max(best, value(i, r));
    return best;
  };
  for (const bool in_place : {true, false}) {
    run({ReduceOp::Sum}, in_place, [n](std::size_t i) { return sum_at(i, n); });
    run({ReduceOp::Avg}, in_place,
        [n](std::size_t i) { return sum_at(i, n) / static_cast<float>(n); });
    run({ReduceOp::PremulSum, 0.5}, in_place, [n](std::size_t i) { return sum_at(i, n) * 0.5F; });
    run({ReduceOp::Max}, in_place, most);
  }
}

void reduce(Communicator& c, std::size_t count, int root) {
  std::vector<float> in = filled(count, c.rank());
  std::vector<float> out(count, -1.0F);
  wait(c, c.reduce(view(in, DType::Float32), view(out, DType::Float32), {}, root));
  for (std::size_t i = 0; i < count; ++i)
    EXPECT(out[i] == (c.rank() == root ? sum_at(i, c.size()) : -1.0F), "reduce index ", i);
  EXPECT(in == filled(count, c.rank()), "reduce changed its input");
}

void broadcast(Communicator& c, std::size_t count, int root) {
  std::vector<float> data = filled(count, c.rank());
  wait(c, c.broadcast(view(data, DType::Float32), root));
  EXPECT(data == filled(count, root), "broadcast n=", c.size(), " count=", count, " root=", root);
}

// Sizes per rank: equal, or growing with the rank and zero for one of them.
std::vector<std::size_t> sizes_of(int n, std::size_t count, bool uneven) {
  std::vector<std::size_t> sizes(static_cast<std::size_t>(n), count);
  if (uneven)
    for (std::size_t r = 0; r < sizes.size(); ++r) sizes[r] = count * r / 2;
  return sizes;
}

void all_gather(Communicator& c, std::size_t count, bool uneven) {
  const auto sizes = sizes_of(c.size(), count, uneven);
  std::vector<float> in = filled(sizes[static_cast<std::size_t>(c.rank())], c.rank());
  std::vector<std::vector<float>> outs;
  std::vector<View> views;
  for (const std::size_t size : sizes) outs.emplace_back(size, -1.0F);
  for (auto& out : outs) views.push_back(view(out, DType::Float32));
  wait(c, c.all_gather(view(in, DType::Float32), views));
  for (int r = 0; r < c.size(); ++r) {
    const auto i = static_cast<std::size_t>(r);
    EXPECT(outs[i] == filled(sizes[i], r), "all_gather part ", r);
  }
}

void reduce_scatter(Communicator& c, std::size_t count, bool uneven) {
  const auto sizes = sizes_of(c.size(), count, uneven);
  std::vector<std::vector<float>> ins;
  std::vector<View> views;
  for (const std::size_t size : sizes) ins.push_back(filled(size, c.rank()));
  for (auto& in : ins) views.push_back(view(in, DType::Float32));
  std::vector<float> out(sizes[static_cast<std::size_t>(c.rank())], -1.0F);
  wait(c, c.reduce_scatter(views, view(out, DType::Float32), {}));
  for (std::size_t i = 0; i < out.size(); ++i)
    EXPECT(out[i] == sum_at(i, c.size()), "reduce_scatter");
  for (std::size_t r = 0; r < sizes.size(); ++r)
    EXPECT(ins[r] == filled(sizes[r], c.rank()), "reduce_scatter changed its input");
}

void all_to_all(Communicator& c, std::size_t count, bool uneven) {
  // What goes from rank a to rank b.
  const auto size = [&](int a, int b) {
    return uneven ? count * static_cast<std::size_t>((a + 2 * b) % 3) : count;
  };
  std::vector<std::vector<float>> ins;
  std::vector<std::vector<float>> outs;
  std::vector<View> from;
  std::vector<View> to;
  for (int r = 0; r < c.size(); ++r) {
    ins.push_back(filled(size(c.rank(), r), 100 * c.rank() + r));
    outs.emplace_back(size(r, c.rank()), -1.0F);
  }
  for (auto& in : ins) from.push_back(view(in, DType::Float32));
  for (auto& out : outs) to.push_back(view(out, DType::Float32));
  wait(c, c.all_to_all(from, to, uneven));
  for (int r = 0; r < c.size(); ++r)
    EXPECT(outs[static_cast<std::size_t>(r)] == filled(size(r, c.rank()), 100 * r + c.rank()),
           "all_to_all");
}

void gather_and_scatter(Communicator& c, std::size_t count, int root) {
  std::vector<float> mine = filled(count, c.rank());
  std::vector<std::vector<float>> parts;
  std::vector<View> views;
  if (c.rank() == root) {
    parts.assign(static_cast<std::size_t>(c.size()), std::vector<float>(count, -1.0F));
    for (auto& part : parts) views.push_back(view(part, DType::Float32));
  }
  wait(c, c.gather(view(mine, DType::Float32), views, root));
  for (int r = 0; r < static_cast<int>(parts.size()); ++r)
    EXPECT(parts[static_cast<std::size_t>(r)] == filled(count, r), "gather part ", r);
  std::vector<float> back(count, -1.0F);
  wait(c, c.scatter(views, view(back, DType::Float32), root));
  EXPECT(back == mine, "scatter");
}

// Many messages, every pair, two tags, received in another order than sent.
void messages(Communicator& c, std::size_t count) {
  const int n = c.size();
  std::vector<std::vector<float>> out;
  std::vector<std::vector<float>> in;
  std::vector<Communicator::Handle> works;
  for (int peer = 0; peer < n; ++peer)
    for (int tag = 0; tag < 2; ++tag) {
      out.push_back(filled(count + static_cast<std::size_t>(tag), 10 * c.rank() + tag));
      in.emplace_back(count + static_cast<std::size_t>(tag), -1.0F);
    }
  for (int peer = 0; peer < n; ++peer)
    for (int tag = 0; tag < 2; ++tag)
      works.push_back(
          c.send(view(out[static_cast<std::size_t>(2 * peer + tag)], DType::Float32), peer, tag));
  for (int peer = n - 1; peer >= 0; --peer)
    for (int tag = 1; tag >= 0; --tag)
      works.push_back(
          c.recv(view(in[static_cast<std::size_t>(2 * peer + tag)], DType::Float32), peer, tag));
  for (auto work = works.rbegin(); work != works.rend(); ++work) wait(c, *work);
  for (int peer = 0; peer < n; ++peer)
    for (int tag = 0; tag < 2; ++tag)
      EXPECT(in[static_cast<std::size_t>(2 * peer + tag)] ==
                 filled(count + static_cast<std::size_t>(tag), 10 * peer + tag),
             "message from ", peer, " tag ", tag);
  // From anybody: each peer once.
  std::vector<float> mine = filled(count, c.rank());
  std::vector<Communicator::Handle> sends;
  for (int peer = 0; peer < n; ++peer) sends.push_back(c.send(view(mine, DType::Float32), peer, 7));
  std::vector<bool> heard(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) {
    std::vector<float> any(count);
    const auto work = c.recv(view(any, DType::Float32), kAnySource, 7);
    wait(c, work);
    EXPECT(any == filled(count, work->source()), "recv from any source");
    heard[static_cast<std::size_t>(work->source())] = true;
  }
  for (const bool one : heard) EXPECT(one, "a source was heard twice");
  for (const auto& send : sends) wait(c, send);
  wait(c, c.barrier());
}

// Sums that round: every rank must round alike.
void same_bits(std::vector<ThreadRank>& world) {
  std::vector<std::vector<float>> results(world.size());
  on_all(world, [&results](Communicator& c) {
    std::vector<float>& mine = results[static_cast<std::size_t>(c.rank())];
    for (std::size_t i = 0; i < 10'007; ++i)
      mine.push_back(1.0F / static_cast<float>(3 * i + 7 * static_cast<std::size_t>(c.rank()) + 1));
    wait(c, c.all_reduce(view(mine, DType::Float32), view(mine, DType::Float32), {}));
  });
  for (const auto& result : results)
    EXPECT(std::memcmp(result.data(), results[0].data(), result.size() * sizeof(float)) == 0,
           "ranks end with different bits");
}

// Several segments of a hierarchy, the last one smaller.
void large(Communicator& c) {
  constexpr std::size_t kCount = 2'300'001;
  std::vector<float> data = filled(kCount, c.rank());
  wait(c, c.all_reduce(view(data, DType::Float32), view(data, DType::Float32), {ReduceOp::Avg}));
  for (std::size_t i = 0; i < kCount; ++i)
    EXPECT(data[i] == sum_at(i, c.size()) / static_cast<float>(c.size()), "large at ", i);
}

void everything(Communicator& c, std::size_t count) {
  all_reduce(c, count);
  for (const int root : {0, c.size() - 1}) {
    reduce(c, count, root);
    broadcast(c, count, root);
    gather_and_scatter(c, count, root);
  }
  for (const bool uneven : {false, true}) {
    all_gather(c, count, uneven);
    reduce_scatter(c, count, uneven);
    all_to_all(c, count, uneven);
  }
  messages(c, count);
  wait(c, c.barrier());
}

}  // namespace

int main() {
  struct Layout {
    int ranks;
    int hosts;
    const char* algorithm;
    const char* transport = "auto";
    SingleCopy single_copy = SingleCopy::Auto;
  };
  const Layout layouts[] = {{1, 1, "auto"},
                            {2, 1, "auto"},
                            {3, 1, "auto"},
                            {5, 1, "auto"},
                            {8, 1, "auto"},
                            {2, 1, "ring"},
                            {3, 1, "ring"},
                            {5, 1, "ring"},
                            {2, 1, "doubling"},
                            {3, 1, "doubling"},
                            {5, 1, "doubling"},
                            {8, 1, "doubling"},
                            {2, 1, "halving"},
                            {3, 1, "halving"},
                            {6, 1, "halving"},
                            {7, 1, "halving"},
                            {8, 1, "halving"},
                            {5, 1, "tree"},
                            {5, 1, "chain"},
                            {2, 2, "auto"},
                            {3, 3, "auto"},
                            {4, 2, "auto"},
                            {5, 2, "auto"},
                            {8, 3, "auto"},
                            {4, 1, "hierarchy"},
                            {6, 2, "ring"},
                            {3, 3, "hierarchy"},
                            {2, 2, "auto", "shm+tcp"},
                            {3, 3, "auto", "shm+tcp"},
                            {5, 2, "auto", "shm+tcp"},
                            {4, 4, "auto", "tcp"},
                            {1, 1, "auto", "auto", SingleCopy::Always},
                            {2, 1, "auto", "auto", SingleCopy::Always},
                            {3, 1, "auto", "auto", SingleCopy::Always},
                            {5, 1, "auto", "auto", SingleCopy::Always},
                            {3, 1, "ring", "auto", SingleCopy::Always},
                            {5, 2, "auto", "auto", SingleCopy::Always},
                            {3, 1, "auto", "auto", SingleCopy::Never}};
  for (const Layout& layout : layouts) {
    auto world = make_world(hosts_of(layout.ranks, layout.hosts), layout.algorithm, 60,
                            layout.transport, layout.single_copy);
    const auto n = static_cast<std::size_t>(layout.ranks);
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, n - 1, n, n + 1,
                                    std::size_t{1000}, std::size_t{40'000}, kLarge})
      on_all(world, [count](Communicator& c) { everything(c, count); });
    same_bits(world);
    if (layout.hosts > 1) on_all(world, large);
    std::printf("%d ranks on %d hosts, %s, %s: ok\n", layout.ranks, layout.hosts, layout.algorithm,
                layout.transport);
    std::fflush(stdout);
  }
}
