// What the engine promises: order, overlap, deadlines, shared failure, callbacks that wait.
#include <condition_variable>
#include <set>
#include <string>

#include "world.h"

using namespace quoit;
using namespace quoit::test;

namespace {

// A pass may only send what it started with or what has arrived and been dealt with: hop i sends
// after hop i - kInFlight has been dealt with. With one segment a chunk this fails, and sums are
// wrong.
void plan_sends_only_what_has_arrived() {
  for (const int n : {2, 3, 5, 8})
    for (const std::size_t count : {std::size_t{0}, std::size_t{3}, std::size_t{100}})
      for (const std::size_t max_segment : {std::size_t{1}, std::size_t{7}, std::size_t{1000}}) {
        Ring ring;
        for (int r = 0; r < n; ++r) ring.ranks.push_back(r);
        const auto hops = plan_pass(ring, equal_chunks(count, n), ring.position, max_segment);
        std::set<std::size_t> have;
        const Slice own = equal_chunks(count, n)[0];
        for (std::size_t i = own.begin; i < own.begin + own.count; ++i) have.insert(i);
        std::size_t received = 0;
        for (std::size_t h = 0; h < hops.size(); ++h) {
          if (h >= kInFlight) {
            const Slice arrived = hops[h - kInFlight].recv;
            for (std::size_t i = 0; i < arrived.count; ++i) have.insert(arrived.begin + i);
          }
          for (std::size_t i = 0; i < hops[h].send.count; ++i)
            EXPECT(have.count(hops[h].send.begin + i) == 1, "hop ", h,
                   " sends what has not arrived");
          EXPECT(hops[h].send.count <= std::max<std::size_t>(max_segment, 1), "segment too long");
          received += hops[h].recv.count;
        }
        EXPECT(received == count - own.count, "a pass must bring all other chunks once");
      }
}

// Ranks that disagree all find out, whichever way the bytes go.
void mismatch_raises_everywhere(const std::vector<std::string>& hosts) {
  struct Wrong {
    const char* what;
    std::function<Communicator::Handle(Communicator&, std::vector<float>&)> right;
    std::function<Communicator::Handle(Communicator&, std::vector<float>&)> wrong;
  };
  const auto sum = [](Communicator& c, std::vector<float>& x) {
    const View all = view(x, DType::Float32);
    return c.all_reduce(all, all, {});
  };
  const std::vector<Wrong> cases{
      {"float32[99]", sum,
       [](Communicator& c, std::vector<float>& x) {
         const View part = view(x, DType::Float32).at({0, 99});
         return c.all_reduce(part, part, {});
       }},
      {"int32", sum,
       [](Communicator& c, std::vector<float>& x) {
         const View ints = view(x, DType::Int32);
         return c.all_reduce(ints, ints, {});
       }},
      {"MAX", sum,
       [](Communicator& c, std::vector<float>& x) {
         const View all = view(x, DType::Float32);
         return c.all_reduce(all, all, {ReduceOp::Max});
       }},
      {"broadcast", sum,
       [](Communicator& c, std::vector<float>& x) {
         return c.broadcast(view(x, DType::Float32), 0);
       }},
      {"barrier", sum, [](Communicator& c, std::vector<float>&) { return c.barrier(); }},
  };
  for (const Wrong& one : cases) {
    auto world = make_world(hosts, "auto", 30);
    on_all(world, [&](Communicator& c) {
      std::vector<float> x(100, 1.0F);
      wait(c, c.barrier());
      const auto start = Clock::now();
      const bool culprit = c.rank() == c.size() - 1;
      const std::string said = error_of([&] { wait(c, (culprit ? one.wrong : one.right)(c, x)); });
      EXPECT(Clock::now() - start < std::chrono::seconds(2), "late: ", said);
      contains(said, one.what);
      contains(said, "all_reduce #2 float32[100] SUM");
      contains(said, "[quoit rank ");
      // Later calls fail at once, for the same reason.
      contains(error_of([&] { wait(c, c.barrier()); }), one.what);
    });
  }
}

void missing_rank_times_out() {
  auto world = make_world(hosts_of(3, 1), "auto", 0.3);
  on_all(world, [](Communicator& c) {
    if (c.rank() == 1) {  // comes late, to a group that has given up
      std::this_thread::sleep_for(std::chrono::milliseconds(800));
      contains(error_of([&] { wait(c, c.barrier()); }), "timed out");
      return;
    }
    const std::string said = error_of([&] { wait(c, c.barrier()); });
    contains(said, "barrier #1");
    contains(said, "timed out waiting for rank 1");
  });
}

// A receive that nobody answers fails alone: the group goes on.
void lonely_receive_times_out() {
  auto world = make_world(hosts_of(2, 1));
  on_all(world, [](Communicator& c) {
    std::vector<float> x(10);
    CallOptions options;
    options.timeout = Seconds(0.2);
    if (c.rank() == 0) {
      const auto work = c.recv(view(x, DType::Float32), 1, 5, options);
      contains(error_of([&] { wait(c, work); }), "recv from rank 1: timed out");
    }
    wait(c, c.barrier());
  });
}

void wrong_size_message_fails_alone() {
  auto world = make_world(hosts_of(2, 1));
  on_all(world, [](Communicator& c) {
    std::vector<float> x(10);
    if (c.rank() == 1) wait(c, c.send(view(x, DType::Float32), 0, 0));
    if (c.rank() == 0) {
      std::vector<float> y(11);
      const auto work = c.recv(view(y, DType::Float32), 1, 0);
      contains(error_of([&] { wait(c, work); }), "rank 1 sent 40 bytes, this rank expected 44");
    }
    wait(c, c.barrier());
  });
}

void departed_peer_is_noticed() {
  auto world = make_world(hosts_of(2, 1));
  world[1].communicator.reset();
  Communicator& c = *world[0].communicator;
  const auto start = Clock::now();
  contains(error_of([&] { wait(c, c.barrier()); }), "rank 1 left the group");
  EXPECT(Clock::now() - start < std::chrono::seconds(1), "noticed late");
}

void abort_ends_a_wait() {
  auto world = make_world(hosts_of(2, 1));
  on_all(world, [](Communicator& c) {
    if (c.rank() == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      c.abort("enough");
      return;
    }
    contains(error_of([&] { wait(c, c.barrier()); }), "enough");
  });
}

void many_in_flight_waited_backwards(const std::vector<std::string>& hosts) {
  auto world = make_world(hosts);
  on_all(world, [](Communicator& c) {
    constexpr int kMany = 200;
    std::vector<std::vector<float>> data;
    std::vector<Communicator::Handle> works;
    for (int i = 0; i < kMany; ++i)
      data.push_back(filled(static_cast<std::size_t>(i * 37), c.rank()));
    for (auto& x : data) {
      CallOptions options;
      options.mode = Engine::Mode::Background;
      works.push_back(c.all_reduce(view(x, DType::Float32), view(x, DType::Float32), {}, options));
    }
    for (auto work = works.rbegin(); work != works.rend(); ++work) wait(c, *work);
    for (const auto& x : data)
      for (std::size_t i = 0; i < x.size(); ++i) {
        float sum = 0;
        for (int r = 0; r < c.size(); ++r) sum += value(i, r);
        EXPECT(x[i] == sum, "async all_reduce");
      }
  });
}

// The background thread ends what nobody waits for.
void progress_without_a_waiter() {
  auto world = make_world(hosts_of(2, 1));
  on_all(world, [](Communicator& c) {
    std::vector<float> x = filled(1 << 20, c.rank());
    CallOptions options;
    options.mode = Engine::Mode::Background;
    const auto work = c.all_reduce(view(x, DType::Float32), view(x, DType::Float32), {}, options);
    const Deadline deadline = Deadline::after(Seconds(20));
    while (!work->done() && !deadline.passed())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT(work->done(), "nobody drove");
    EXPECT(x[3] == value(3, 0) + value(3, 1), "wrong sum");
  });
}

// Nor when nobody can know whether it will be waited for, amid calls that are: those make the
// background thread look rarely, and leave alone what it sees.
void progress_after_much_talk() {
  auto world = make_world(hosts_of(2, 1));
  on_all(world, [](Communicator& c) {
    const int other = 1 - c.rank();
    CallOptions either;
    either.mode = Engine::Mode::Either;
    std::vector<float> word(1), heard(1);
    std::vector<float> large(4 << 20, static_cast<float>(c.rank())), into(large.size());
    for (int turn = 0; turn < 2; ++turn) {
      for (int i = 0; i < 2000; ++i) {
        const auto sent = c.send(view(word, DType::Float32), other, 0, either);
        wait(c, c.recv(view(heard, DType::Float32), other, 0, either));
        wait(c, sent);
      }
      const auto sent = c.send(view(large, DType::Float32), other, 0, either);
      const auto came = c.recv(view(into, DType::Float32), other, 0, either);
      const Deadline deadline = Deadline::after(Seconds(20));
      while (!(sent->done() && came->done()) && !deadline.passed())
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      EXPECT(sent->done() && came->done(), "nobody drove");
      EXPECT(into.back() == static_cast<float>(other), "wrong message");
    }
  });
}

// A chain in which each callback waits for work that the next callback follows.
void callbacks_may_wait() {
  auto world = make_world(hosts_of(2, 1));
  on_all(world, [](Communicator& c) {
    constexpr int kLinks = 30;
    std::mutex mutex;
    std::condition_variable ended;
    bool done = false;
    const auto barrier = [&c] {
      CallOptions options;
      options.mode = Engine::Mode::Background;
      return c.barrier(options);
    };
    std::function<void(int)> link = [&](int left) {
      wait(c, barrier());
      if (left == 0) {
        const std::lock_guard lock(mutex);
        done = true;
        ended.notify_all();
        return;
      }
      barrier()->when_done([&link, left] { link(left - 1); });
    };
    barrier()->when_done([&link] { link(kLinks); });
    std::unique_lock lock(mutex);
    EXPECT(ended.wait_for(lock, std::chrono::seconds(30), [&] { return done; }),
           "callbacks deadlocked");
  });
}

void two_threads_may_wait() {
  auto world = make_world(hosts_of(2, 1));
  on_all(world, [](Communicator& c) {
    std::vector<float> here(1);
    std::vector<float> there(1);
    std::vector<float> zero(1, 0.0F);
    const int peer = 1 - c.rank();
    const auto one = c.recv(view(here, DType::Float32), peer, 1);
    const auto two = c.recv(view(there, DType::Float32), peer, 2);
    std::thread other([&] { wait(c, two); });
    const auto send_two = c.send(view(zero, DType::Float32), peer, 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const auto send_one = c.send(view(zero, DType::Float32), peer, 1);
    wait(c, one);
    other.join();
    wait(c, send_one);
    wait(c, send_two);
  });
}

}  // namespace

int main() {
  plan_sends_only_what_has_arrived();
  for (const auto& hosts : {hosts_of(2, 1), hosts_of(3, 1), hosts_of(3, 3), hosts_of(4, 2)}) {
    mismatch_raises_everywhere(hosts);
    many_in_flight_waited_backwards(hosts);
  }
  missing_rank_times_out();
  lonely_receive_times_out();
  wrong_size_message_fails_alone();
  departed_peer_is_noticed();
  abort_ends_a_wait();
  progress_without_a_waiter();
  progress_after_much_talk();
  callbacks_may_wait();
  two_threads_may_wait();
  std::puts("ok");
}
