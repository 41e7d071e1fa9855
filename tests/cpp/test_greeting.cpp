// What a rank makes of what comes in place of another's call: two networks joined by a wire, and
// the messages of one of them written by hand.
#include <array>
#include <cstring>

#include "collective/recursive.h"
#include "transport/loopback.h"
#include "world.h"

namespace quoit::test {
namespace {

struct Pair {
  Pair() {
    for (int rank = 0; rank < 2; ++rank)
      nets[rank]->add(std::make_unique<LoopbackTransport>(wire, rank, nets[rank]->mailbox()),
                      {1 - rank});
  }
  std::array<Bell, 2> bells;
  std::shared_ptr<LoopbackWire> wire =
      std::make_shared<LoopbackWire>(std::vector<Bell*>{&bells[0], &bells[1]});
  std::array<std::unique_ptr<Network>, 2> nets{std::make_unique<Network>(0, 2),
                                               std::make_unique<Network>(1, 2)};
};

const Call kCall{.count = 4, .sequence = 7, .op = Op::AllReduce, .dtype = DType::Float32};

// What rank 0's task throws when rank 1 says this; empty if nothing.
std::string heard(Pair& pair, Task task, ConstBytes said) {
  Flow flow(std::move(task));
  Transfer sent = pair.nets[1]->send(0, kGreetingTag, said);
  for (int i = 0; i < 100 && !flow.done(); ++i) {
    flow.run();
    pair.nets[0]->progress();
    pair.nets[1]->progress();
    flow.run();
  }
  EXPECT(flow.done(), "the task waits for more");
  return error_of([&] {
    if (auto error = flow.error()) std::rethrow_exception(error);
  });
}

template <class T>
ConstBytes bytes_of(const T& object) {
  return std::as_bytes(std::span(&object, 1));
}

Ring two() { return {{0, 1}, 0}; }

void greetings() {
  Pair pair;
  const auto greeted = [&](ConstBytes said, const Call& call = kCall) {
    // Its own message would wait for a receiver that this test has not got.
    std::array<std::byte, 256> room;
    Transfer taken = pair.nets[1]->recv(0, kGreetingTag, room, Fit::Any);
    std::string error = heard(pair, greet(*pair.nets[0], two(), call), said);
    EXPECT(taken.ready() && taken.size() == sizeof(Call), "it says its own call");
    return error;
  };
  EXPECT(greeted(bytes_of(kCall)).empty(), "the same call");

  Call moved = kCall;
  moved.op = Op::Broadcast;
  moved.dtype = DType::Float8;
  EXPECT(greeted(bytes_of(moved), moved).empty(), "of a type that is never added up");

  Call other = kCall;
  other.count = 5;
  contains(greeted(bytes_of(other)),
           "rank 1 called all_reduce #7 float32[5] SUM, this rank called all_reduce #7 float32[4]");

  // The same of a message that is longer than there is room for.
  std::array<std::byte, 200> longer{};
  std::memcpy(longer.data(), &other, sizeof other);
  contains(greeted(longer), "rank 1 called all_reduce #7 float32[5] SUM");
  std::memcpy(longer.data(), &kCall, sizeof kCall);
  contains(greeted(longer), "rank 1 goes about the same call by another algorithm");

  contains(greeted(ConstBytes(longer).first(3)), "rank 1 sent 3 bytes that begin with no call");
  std::memset(longer.data(), 0xff, longer.size());
  contains(greeted(longer), "rank 1 sent 200 bytes that begin with no call");
}

void small_sums_carry_the_call() {
  struct Letter {
    Call call = kCall;
    std::array<float, 4> data{1, 2, 3, 4};
  };
  Pair pair;
  std::array<float, 4> mine{10, 20, 30, 40};
  const View view{reinterpret_cast<std::byte*>(mine.data()), mine.size(), DType::Float32};
  const auto sum = [&](const Letter& said) {
    Letter heard_back;
    Transfer taken =
        pair.nets[1]->recv(0, kGreetingTag, std::as_writable_bytes(std::span(&heard_back, 1)));
    std::string error = heard(pair,
                              doubling_all_reduce(Hands(*pair.nets[0], kGreetingTag), two(), kCall,
                                                  view, view, {}, std::make_shared<Workspace>()),
                              bytes_of(said));
    EXPECT(heard_back.call == kCall && heard_back.data[3] == 40, "what it says");
    return error;
  };
  Letter wrong;
  wrong.call.reduce = ReduceOp::Max;
  contains(sum(wrong), "rank 1 called all_reduce #7 float32[4] MAX");
  EXPECT(mine[0] == 10, "nothing is added up that belongs to another call");
  EXPECT(sum({}).empty() && mine == (std::array<float, 4>{11, 22, 33, 44}), "the sum");
}

}  // namespace
}  // namespace quoit::test

int main() {
  quoit::test::greetings();
  quoit::test::small_sums_carry_the_call();
}
