// The cost model: formulas by hand, what it recommends, the tuning file, and measuring.
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "world.h"

using namespace quoit;
using namespace quoit::test;

namespace {

constexpr Costs kCosts{{1e-6, 1e-10}, {50e-6, 8e-9}, 1e-10};

void expect_seconds(Op op, Algorithm way, double bytes, Shape shape, double seconds) {
  const double found = predict(op, way, bytes, shape, kCosts);
  EXPECT(std::abs(found - seconds) < 1e-12 + 1e-9 * seconds, name_of(op), " by ", name_of(way),
         ": got ", found, ", expected ", seconds);
}

void formulas() {
  const double b = 1e6;
  const double a = 50e-6, beta = 8e-9, gamma = 1e-10;
  const Shape four{4, 4, 1};
  expect_seconds(Op::AllReduce, Algorithm::Ring, b, four,
                 6 * a + 1.5 * b * beta + 0.75 * b * gamma);
  expect_seconds(Op::AllReduce, Algorithm::Doubling, b, four, 2 * (a + b * beta + b * gamma));
  expect_seconds(Op::AllReduce, Algorithm::Halving, b, four,
                 4 * a + 1.5 * b * beta + 0.75 * b * gamma);
  expect_seconds(Op::AllGather, Algorithm::Ring, b, four, 3 * a + 0.75 * b * beta);
  expect_seconds(Op::AllGather, Algorithm::Doubling, b, four, 2 * a + 0.75 * b * beta);
  expect_seconds(Op::ReduceScatter, Algorithm::Halving, b, four,
                 2 * a + 0.75 * b * beta + 0.75 * b * gamma);
  expect_seconds(Op::Broadcast, Algorithm::Tree, b, four, 2 * (a + b * beta));
  expect_seconds(Op::Barrier, Algorithm::Doubling, 0, {5, 5, 1}, 4 * a);
  EXPECT(greeting(four, kCosts) == 2 * a, "everybody hears from everybody");
  EXPECT(greeting({3, 3, 1}, kCosts) == 3 * a, "one sits out");
  EXPECT(greeting({4, 1, 4}, kCosts) == 0, "greeting on the board");
  // Three ranks: two in a pair, one exchange of two, and the result goes back.
  expect_seconds(Op::AllReduce, Algorithm::Doubling, b, {3, 3, 1},
                 3 * (a + b * beta) + 2 * b * gamma);
  // Two hosts of two ranks: half of the bytes inside, twice; then two hosts share out the whole.
  expect_seconds(Op::AllReduce, Algorithm::Hierarchy, b, {4, 2, 2},
                 2 * (1e-6 + 0.5 * b * 1e-10) + 2 * a + b * beta + 0.5 * b * gamma);
}

void recommendations() {
  const auto best = [](Op op, double bytes, Shape shape) {
    const Choice choice = choose(op, bytes, shape, kCosts);
    for (const Algorithm way : algorithms_for(op, shape))
      EXPECT(shape.hosts == 1 || choice.seconds <= predict(op, way, bytes, shape, kCosts),
             name_of(way), " is cheaper than ", name_of(choice.algorithm));
    return choice.algorithm;
  };
  EXPECT(best(Op::AllReduce, 8, {64, 64, 1}) == Algorithm::Doubling, "short: few messages");
  EXPECT(best(Op::AllReduce, 1e6, {64, 64, 1}) == Algorithm::Halving, "middle: both");
  EXPECT(best(Op::AllReduce, 1e8, {4, 2, 2}) == Algorithm::Hierarchy, "hosts of several ranks");
  EXPECT(best(Op::AllReduce, 1e8, {4, 1, 4}) == Algorithm::Direct, "one host");
  EXPECT(best(Op::Broadcast, 8, {64, 64, 1}) == Algorithm::Tree, "short broadcast");
  EXPECT(best(Op::Broadcast, 1e9, {64, 64, 1}) == Algorithm::Chain, "long broadcast");
  for (const int ranks : {2, 3, 7, 100, 100'000})
    for (const Op op : {Op::AllReduce, Op::AllGather, Op::ReduceScatter, Op::Broadcast, Op::Reduce})
      best(op, 1e7, {ranks, ranks, 1});
}

void tuning_file() {
  const auto path = std::filesystem::temp_directory_path() / text("quoit-test-cost-", getpid());
  const auto write = [&path](const char* lines) { std::ofstream(path) << lines; };
  write("# written by hand\nhost_alpha = 2e-6\n\nnet_beta=8e-9  # 1 Gbit/s\n");
  EXPECT(read_costs(path).host.alpha == 2e-6, "host_alpha");
  write("net_beta = 8e-9 # comment\n");
  EXPECT(read_costs(path).net.beta == 8e-9, "net_beta");
  for (const char* wrong : {"net_bta = 1", "net_beta 1", "net_beta = fast", "net_beta = 1 2",
                            "gamma = -1", "gamma ="}) {
    write(wrong);
    try {
      read_costs(path);
      EXPECT(false, "accepted: ", wrong);
    } catch (const UsageError&) {
    }
  }
  std::filesystem::remove(path);
}

void measuring() {
  for (const auto& [ranks, hosts] : {std::pair{2, 1}, {2, 2}, {4, 2}, {5, 3}}) {
    auto world = make_world(hosts_of(ranks, hosts));
    std::vector<Costs> found(world.size());
    on_all(world, [&found](Communicator& c) {
      wait(c, c.measure(2));
      found[static_cast<std::size_t>(c.rank())] = c.costs();
    });
    for (const Costs& costs : found) {
      EXPECT(std::memcmp(&costs, found.data(), sizeof costs) == 0, "ranks found different costs");
      EXPECT(costs.host.alpha > 0 && costs.net.alpha > 0 && costs.gamma > 0, "a cost is nothing");
    }
  }
}

}  // namespace

int main() {
  formulas();
  recommendations();
  tuning_file();
  measuring();
}
