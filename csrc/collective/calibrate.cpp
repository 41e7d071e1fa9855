#include "collective/calibrate.h"

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

// A few exchanges round the ring; the first half is not counted: it may find connections to be
// made, and links that let a burst through before they show their rate. Their mean, for a rank that
// is ahead of its neighbour by a latency has exchanges of no time and of twice the time in turns.
Task time_exchanges(Network& net, const Ring& ring, ConstBytes out, Bytes in, int times,
                    double& seconds) {
  const int counted = times / 2;
  Clock::time_point since{};
  for (int i = 0; i < times; ++i) {
    if (i == times - counted) since = Clock::now();
    Exchange exchange = net.exchange(ring.next(), out, ring.prev(), in);
    co_await exchange;
  }
  seconds = Seconds(Clock::now() - since).count() / counted;
}

Task time_host(Board& board, Call call, View data, double& round, double& sum) {
  Stopwatch rounds;
  for (int i = 0; i < kShort; ++i) {
    rounds.start();
    co_await direct_barrier(board, call);
    rounds.stop();
  }
  Stopwatch sums;
  for (int i = 0; i < kLong; ++i) {
    sums.start();
    co_await direct_all_reduce(board, call, data, data, {});
    sums.stop();
  }
  round = rounds.best();
  sum = sums.best();
}

double time_sum(View data) {
  Stopwatch watch;
  const std::array<const std::byte*, 2> inputs{data.data, data.data + kSum};
  for (int i = 0; i < kShort; ++i) {
    watch.start();
    reduce(data.dtype, {}, inputs, data.data, nullptr, kSum / size_of(data.dtype));
    watch.stop();
  }
  return watch.best() / static_cast<double>(kSum);
}

}  // namespace

Task calibrate(Network& net, Ring ring, Board& board, Call call, int passes,
               std::shared_ptr<Workspace> workspace, Costs& costs) {
  // Whoever measures at leisure sends so much that the bursts of a limited link do not count.
  const std::size_t block = passes > 1 ? kLongBlock : kBlock;
  std::byte* const memory = workspace->copy.get(2 * block);
  const View data{memory, kBlock / sizeof(float), DType::Float32};
  // The shortest of each; differences are taken at the end, or one disturbed time would make them
  // small.
  std::array<double, 5> best{};
  for (int pass = 0; pass < passes; ++pass) {
    std::array<double, 5> now{};
    if (board.size() > 1) co_await time_host(board, call, data, now[0], now[1]);
    if (ring.size() > 1) {
      const ConstBytes out{memory, block};
      const Bytes in{memory + block, block};
      co_await time_exchanges(net, ring, out.first(1), in.first(1), kShort, now[2]);
      co_await time_exchanges(net, ring, out, in, kLong, now[3]);
    }
    now[4] = time_sum(data);
    for (std::size_t i = 0; i < now.size(); ++i)
      best[i] = pass == 0 ? now[i] : std::min(best[i], now[i]);
  }
  // See direct() in cost.cpp; the addition is part of what a byte costs inside a host.
  const double n = board.size();
  std::array<double, 5> found{
      best[0],
      std::max(0.0, best[1] - 2 * best[0]) /
          (2 * std::max(0.5, (n - 1) / n) * static_cast<double>(kBlock)),
      best[2], std::max(0.0, best[3] - best[2]) / static_cast<double>(block), best[4]};
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
