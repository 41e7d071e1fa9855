#include "collective/calibrate.h"

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "collective/direct.h"
#include "collective/recursive.h"
#include "core/clock.h"

namespace quoit {
namespace {

constexpr std::size_t kBlock = 256 * 1024;           // bytes; long enough for a bandwidth to show
constexpr std::size_t kLongBlock = 4 * 1024 * 1024;  // when there is time
constexpr int kShort = 8;                            // repetitions of what is short
constexpr int kLong = 4;                             // and of what is long
constexpr std::size_t kSum = 64 * 1024;  // bytes that stay in cache while they are added
constexpr double kNever = std::numeric_limits<double>::infinity();

// The shortest time of several: whatever disturbs makes them longer.
class Stopwatch {
 public:
  void start() { since_ = Clock::now(); }
  void stop() { best_ = std::min(best_, Seconds(Clock::now() - since_).count()); }
  [[nodiscard]] double best() const { return best_; }

 private:
  Clock::time_point since_{};
  double best_ = kNever;
};

// How long a byte takes to the next rank: half of what it takes there and back. All ranks do it at
// once; who waits for a slower neighbour in between finds no more than that one does.
Task time_answers(Network& net, const Ring& ring, Bytes memory, std::vector<double>& seconds) {
  const ConstBytes out = memory.first(1);
  for (int i = 0; i < kShort; ++i) {
    const auto since = Clock::now();
    Exchange asked = net.exchange(ring.next(), out, ring.prev(), memory.subspan(1, 1));
    co_await asked;
    Exchange answered = net.exchange(ring.prev(), out, ring.next(), memory.subspan(2, 1));
    co_await answered;
    seconds.push_back(Seconds(Clock::now() - since).count() / 2);
  }
}

// How long a block from the rank before takes when one follows another, all round the ring. The
// first half of them is not counted: it may find links that let a burst through before they show
// their rate.
Task time_stream(Network& net, const Ring& ring, ConstBytes out, Bytes in, double& seconds) {
  std::vector<Transfer> sent;
  for (int i = 0; i < kLong; ++i) sent.push_back(net.send(ring.next(), kCollectiveTag, out));
  Clock::time_point since{};
  for (int i = 0; i < kLong; ++i) {
    if (i == kLong / 2) since = Clock::now();
    Transfer came = net.recv(ring.prev(), kCollectiveTag, in);
    co_await came;
  }
  seconds = Seconds(Clock::now() - since).count() / (kLong - kLong / 2);
  for (Transfer& one : sent) co_await one;
}

Task time_host(Board& board, Call call, View data, Stopwatch& rounds, Stopwatch& sums) {
  for (int i = 0; i < kShort; ++i) {
    rounds.start();
    co_await direct_barrier(board, call);
    rounds.stop();
  }
  for (int i = 0; i < kLong; ++i) {
    sums.start();
    co_await direct_all_reduce(board, call, data, data, {});
    sums.stop();
  }
}

// The middle one; what the network or another program is slow for now and then does not count.
double usual(std::vector<double>& seconds) {
  if (seconds.empty()) return 0;
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

void time_sum(View data, Stopwatch& watch) {
  const std::array<const std::byte*, 2> inputs{data.data, data.data + kSum};
  for (int i = 0; i < kShort; ++i) {
    watch.start();
    reduce(data.dtype, {}, inputs, data.data, nullptr, kSum / size_of(data.dtype));
    watch.stop();
  }
}

}  // namespace

Task calibrate(Network& net, Ring ring, Board& board, Call call, int passes,
               std::shared_ptr<Workspace> workspace, Costs& costs) {
  // Whoever measures at leisure sends so much that the bursts of a limited link do not count.
  const std::size_t block = passes > 1 ? kLongBlock : kBlock;
  std::byte* const memory = workspace->copy.get(2 * block);
  const View data{memory, kBlock / sizeof(float), DType::Float32};
  // Of what happens in memory the shortest times: differences of them are taken, and one that was
  // disturbed would make those small. Of networks what is usual.
  Stopwatch rounds, sums, additions;
  std::vector<double> answers, streams;
  for (int pass = 0; pass < passes; ++pass) {
    if (board.size() > 1) co_await time_host(board, call, data, rounds, sums);
    if (ring.size() > 1) {
      const ConstBytes out{memory, block};
      const Bytes in{memory + block, block};
      co_await time_answers(net, ring, {memory, 3}, answers);
      co_await time_stream(net, ring, out, in, streams.emplace_back());
    }
    time_sum(data, additions);
  }
  // See direct() in cost.cpp; the addition is part of what a byte costs inside a host.
  const double n = board.size();
  const double moved = 2 * std::max(0.5, (n - 1) / n) * static_cast<double>(kBlock);
  std::array<double, 5> found{
      board.size() > 1 ? rounds.best() : 0,
      board.size() > 1 ? std::max(0.0, sums.best() - 2 * rounds.best()) / moved : 0, usual(answers),
      usual(streams) / static_cast<double>(block), additions.best() / static_cast<double>(kSum)};
  const auto& [host_alpha, host_beta, net_alpha, net_beta, gamma] = found;
  if (ring.size() > 1) {
    const View shared{reinterpret_cast<std::byte*>(found.data()), found.size(), DType::Float64};
    co_await doubling_all_reduce(net, ring, call, shared, shared, {ReduceOp::Max}, workspace);
  }
  if (host_alpha > 0) costs.host = {host_alpha, host_beta};
  if (ring.size() > board.size()) costs.net = {net_alpha, net_beta};
  costs.gamma = gamma;
}

}  // namespace quoit
