// The short way of a call (engine/attempt.h): over at once, or handed over without anything lost.
#include <array>
#include <condition_variable>
#include <mutex>
#include <string>

#include "world.h"

using namespace quoit;
using namespace quoit::test;

namespace {

CallOptions in(Engine::Mode mode) {
  CallOptions options;
  options.mode = mode;
  return options;
}

// As callers do it: null is "done".
void finish(Communicator& c, const Communicator::Handle& work) {
  if (work) wait(c, work);
}

void sum(Communicator& c, std::vector<float>& x, Engine::Mode mode) {
  const View all = view(x, DType::Float32);
  finish(c, c.all_reduce(all, all, {}, in(mode)));
}

void expect_sum(const std::vector<float>& x, int ranks) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    float expected = 0;
    for (int r = 0; r < ranks; ++r) expected += value(i, r);
    EXPECT(x[i] == expected, "element ", i, " of ", x.size());
  }
}

// A rank alone waits for nobody.
void alone_there_is_no_handle() {
  auto world = make_world(hosts_of(1, 1));
  on_all(world, [](Communicator& c) {
    std::vector<float> x = filled(10, 0);
    const View all = view(x, DType::Float32);
    const auto now = in(Engine::Mode::Now);
    EXPECT(c.all_reduce(all, all, {}, now) == nullptr, "all_reduce");
    EXPECT(c.broadcast(all, 0, now) == nullptr, "broadcast");
    EXPECT(c.all_gather(all, {all}, now) == nullptr, "all_gather");
    EXPECT(c.barrier(now) == nullptr, "barrier");
    EXPECT(c.send(all, 0, 7, now) == nullptr, "send");
    EXPECT(c.recv(all, 0, 7, now) == nullptr, "recv");
    EXPECT(c.sequence() == 4, "collectives are numbered");
    expect_sum(x, 1);
    // Something else in flight: the ordinary way.
    std::vector<float> y(1);
    const auto pending = c.recv(view(y, DType::Float32), 0, 8, in(Engine::Mode::Background));
    const auto work = c.barrier(now);
    EXPECT(work != nullptr, "another operation was in flight");
    wait(c, work);
    finish(c, c.send(view(y, DType::Float32), 0, 8, now));
    wait(c, pending);
  });
}

// The others are so late that the call is handed over, in the middle of its first round or of a
// later one.
void late_ranks_are_waited_for(const std::vector<std::string>& hosts) {
  auto world = make_world(hosts);
  on_all(world, [](Communicator& c) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{3000}, std::size_t{300000}})
      for (int late = 0; late < c.size(); ++late) {
        std::vector<float> x = filled(count, c.rank());
        if (c.rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(20));
        sum(c, x, Engine::Mode::Now);
        expect_sum(x, c.size());
        if (c.rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(20));
        finish(c, c.barrier(in(Engine::Mode::Now)));
      }
  });
}

// The same calls, each rank taking ways of its own, in an order of its own.
void ways_may_be_mixed(const std::vector<std::string>& hosts) {
  auto world = make_world(hosts);
  on_all(world, [](Communicator& c) {
    constexpr std::array kWays{Engine::Mode::Now, Engine::Mode::Background,
                               Engine::Mode::Foreground, Engine::Mode::Either};
    constexpr std::size_t kCalls = 300;
    std::vector<std::vector<float>> data;
    std::vector<Communicator::Handle> works;
    for (std::size_t i = 0; i < kCalls; ++i) data.push_back(filled(i * 29 % 7000, c.rank()));
    for (std::size_t i = 0; i < kCalls; ++i) {
      const View x = view(data[i], DType::Float32);
      const auto way = kWays[(i / 3 + static_cast<std::size_t>(c.rank())) % kWays.size()];
      auto work = c.all_reduce(x, x, {}, in(way));
      if (way == Engine::Mode::Now || way == Engine::Mode::Foreground)
        finish(c, work);
      else
        works.push_back(std::move(work));
    }
    for (const auto& work : works) wait(c, work);
    for (const auto& x : data) expect_sum(x, c.size());
    EXPECT(c.sequence() == kCalls, "every call is numbered once");
  });
}

// Small messages there and back, and more of them than a pipe holds.
void messages_pass() {
  auto world = make_world(hosts_of(2, 1));
  on_all(world, [](Communicator& c) {
    const int peer = 1 - c.rank();
    const auto now = in(Engine::Mode::Now);
    for (int i = 0; i < 2000; ++i) {
      std::vector<float> x = filled(static_cast<std::size_t>(i % 500), c.rank() + i);
      std::vector<float> y(x.size());
      const auto send = [&] { finish(c, c.send(view(x, DType::Float32), peer, i, now)); };
      const auto recv = [&] { finish(c, c.recv(view(y, DType::Float32), peer, i, now)); };
      if (c.rank() == 0) send(), recv();
      if (c.rank() == 1) recv(), send();
      EXPECT(y == filled(x.size(), peer + i), "message ", i);
    }
    // One side sends 8 MiB in small messages to a rank that is late: it sleeps, and is woken.
    std::vector<float> x = filled(4096, 3);
    if (c.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    for (int i = 0; i < 512; ++i) {
      if (c.rank() == 0) finish(c, c.send(view(x, DType::Float32), 1, 0, now));
      if (c.rank() == 1) finish(c, c.recv(view(x, DType::Float32), 0, 0, now));
    }
  });
}

void pause_us(int microseconds) {
  std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
}

// Sums of many sizes, each rank late in turn; every fifth is left in flight while the next is made.
void make_sums(Communicator& c, int calls) {
  for (int i = 0; i < calls; ++i) {
    std::vector<float> left = filled(static_cast<std::size_t>(i * 37 % 3000), c.rank());
    const View all = view(left, DType::Float32);
    Communicator::Handle pending;
    if (i % 5 == 0) pending = c.all_reduce(all, all, {}, in(Engine::Mode::Background));
    if (i % 7 == c.rank()) pause_us(i % 3 * 40);
    std::vector<float> x = filled(static_cast<std::size_t>(i * 13 % 500), c.rank());
    sum(c, x, Engine::Mode::Now);
    expect_sum(x, c.size());
    if (!pending) continue;
    wait(c, pending);
    expect_sum(left, c.size());
  }
}

// Messages round the ring of ranks: now waited for, now with the receive in flight beside the send.
void pass_round(Communicator& c, int rounds) {
  const int right = (c.rank() + 1) % c.size();
  const int left = (c.rank() + c.size() - 1) % c.size();
  constexpr std::array kWays{Engine::Mode::Now, Engine::Mode::Background, Engine::Mode::Either};
  for (int i = 0; i < rounds; ++i) {
    const auto way = kWays[static_cast<std::size_t>(i) % kWays.size()];
    const auto count = static_cast<std::size_t>(i * 29 % 900);
    std::vector<float> x = filled(count, c.rank() + i);
    std::vector<float> y(count);
    const auto send = [&] {
      if (i % 11 == c.rank()) pause_us(60);
      finish(c, c.send(view(x, DType::Float32), right, i, in(Engine::Mode::Now)));
    };
    const int from = i % 2 == 0 ? left : kAnySource;
    const auto receive = [&] { return c.recv(view(y, DType::Float32), from, i, in(way)); };
    if (way != Engine::Mode::Now) {
      const auto coming = receive();
      send();
      wait(c, coming);
    } else if (c.rank() == 0) {
      send();
      finish(c, receive());
    } else {
      finish(c, receive());
      send();
    }
    EXPECT(y == filled(count, left + i), "message ", i);
  }
}

// Two threads of a rank call on one group, so that a call finds the engine idle, or with something
// in flight, or driven by the other thread, which then has to hand over what it is at.
void two_threads_one_group(const std::vector<std::string>& hosts, const std::string& transport) {
  auto world = make_world(hosts, "auto", 60, transport);
  on_all(world, [](Communicator& c) {
    std::thread messages([&c] { pass_round(c, 600); });
    make_sums(c, 600);
    messages.join();
    EXPECT(c.sequence() == 720, "every call is numbered once");
  });
}

// Where two threads tell each other a string each.
class Meeting {
 public:
  std::vector<std::string> operator()(std::size_t rank, const std::string& mine) {
    std::unique_lock lock(mutex_);
    const int round = come_ / 2;
    said_[rank] = mine;
    ++come_;
    all_.notify_all();
    all_.wait(lock, [&] { return come_ >= 2 * (round + 1); });
    const std::vector<std::string> heard = said_;
    if (++gone_ % 2 == 0) all_.notify_all();
    all_.wait(lock, [&] { return gone_ >= 2 * (round + 1); });
    return heard;
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_;
  std::vector<std::string> said_ = std::vector<std::string>(2);
  int come_ = 0;
  int gone_ = 0;
};

// Two groups of one engine, each used by a thread of its own: neither keeps the other from driving.
void two_threads_two_groups() {
  ConnectOptions options;
  options.timeout = Seconds(60);
  std::array<Engine, 2> engines;  // of the two ranks
  Meeting meeting;
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 2; ++rank)
    ranks.emplace_back([&, rank] {
      const auto me = static_cast<std::size_t>(rank);
      const auto meet = [&](const std::string& mine) { return meeting(me, mine); };
      std::vector<std::unique_ptr<Communicator>> groups;
      for (int g = 0; g < 2; ++g) groups.push_back(connect(engines[me], rank, 2, meet, options));
      std::vector<std::thread> threads;
      for (const auto& group : groups)
        threads.emplace_back([&c = *group] {
          for (std::size_t i = 0; i < 2000; ++i) {
            std::vector<float> x = filled(i % 100, c.rank());
            sum(c, x, Engine::Mode::Now);
            expect_sum(x, 2);
          }
          make_sums(c, 600);
        });
      for (std::thread& thread : threads) thread.join();
    });
  for (std::thread& rank : ranks) rank.join();
}

// Ranks that disagree find out on the short way as on the other, whichever of them is late.
void mismatch_raises(const std::vector<std::string>& hosts) {
  for (const int late : {0, 1}) {
    auto world = make_world(hosts, "auto", 30);
    on_all(world, [&](Communicator& c) {
      std::vector<float> x(100, 1.0F);
      sum(c, x, Engine::Mode::Now);
      if (c.rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      x.resize(c.rank() == 0 ? 99 : 100);
      const std::string said = error_of([&] { sum(c, x, Engine::Mode::Now); });
      contains(said, "[quoit rank ");
      contains(said, "all_reduce #2 float32[99] SUM");
      contains(said, "all_reduce #2 float32[100] SUM");
      contains(error_of([&] { sum(c, x, Engine::Mode::Now); }), "float32[99]");
    });
  }
}

// A fault that is announced while others wait on the short way, which most of them have left by
// then.
void a_fault_ends_the_wait() {
  for (const int after_us : {0, 10, 30000}) {
    auto world = make_world(hosts_of(3, 1), "auto", 30);
    on_all(world, [&](Communicator& c) {
      finish(c, c.barrier(in(Engine::Mode::Now)));
      if (c.rank() == 1) {
        std::this_thread::sleep_for(std::chrono::microseconds(after_us));
        c.abort("enough");
        return;
      }
      const auto start = Clock::now();
      contains(error_of([&] { finish(c, c.barrier(in(Engine::Mode::Now))); }), "enough");
      EXPECT(Clock::now() - start < std::chrono::seconds(5), "noticed late");
    });
  }
}

// Time runs out for a call that was handed over, too; a receive fails alone.
void deadlines_hold() {
  auto world = make_world(hosts_of(2, 1), "auto", 0.3);
  on_all(world, [](Communicator& c) {
    std::vector<float> x(10);
    if (c.rank() == 0) {
      const auto receive = [&] {
        finish(c, c.recv(view(x, DType::Float32), 1, 5, in(Engine::Mode::Now)));
      };
      contains(error_of(receive), "recv from rank 1: timed out");
      contains(error_of([&] { sum(c, x, Engine::Mode::Now); }), "timed out waiting for rank 1");
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(1500));
      contains(error_of([&] { sum(c, x, Engine::Mode::Now); }), "timed out");
    }
  });
}

}  // namespace

int main() {
  alone_there_is_no_handle();
  for (const auto& hosts : {hosts_of(2, 1), hosts_of(3, 1), hosts_of(4, 2)}) {
    late_ranks_are_waited_for(hosts);
    ways_may_be_mixed(hosts);
    mismatch_raises(hosts);
  }
  messages_pass();
  for (const auto& hosts : {hosts_of(2, 1), hosts_of(3, 1), hosts_of(2, 2)})
    two_threads_one_group(hosts, "auto");
  two_threads_one_group(hosts_of(2, 2), "tcp");
  two_threads_two_groups();
  a_fault_ends_the_wait();
  deadlines_hold();
  std::puts("ok");
}
