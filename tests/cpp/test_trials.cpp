// Ways of doing a thing, of which the fastest shall be found, kept, and left when it is no more.
#include "transport/trials.h"

#include "checks.h"

namespace quoit::test {
namespace {

// Makes so many calls, each of which takes what its way costs; how many went way `counted`.
template <std::size_t kWays>
unsigned calls(Trials<kWays>& trials, const std::array<double, kWays>& costs, unsigned times,
               std::size_t counted, std::array<bool, kWays> open) {
  unsigned went = 0;
  for (unsigned i = 0; i < times; ++i) {
    const std::size_t way = trials.next(open);
    EXPECT(open[way], "way ", way, " is closed");
    if (way == counted) ++went;
    if (trials.wants(way)) trials.record(way, costs[way]);
  }
  return went;
}

void test_the_fastest_is_taken() {
  for (std::size_t fastest = 0; fastest < 3; ++fastest) {
    Trials<3> trials;
    std::array<double, 3> costs{2, 2, 2};
    costs[fastest] = 1;
    calls<3>(trials, costs, 3 * Trials<3>::kProbe, fastest, {true, true, true});
    const unsigned went = calls<3>(trials, costs, 10'000, fastest, {true, true, true});
    EXPECT(went > 9'900, "of 10000 calls only ", went, " went the fastest way, ", fastest);
    EXPECT(went < 10'000, "no other way is ever tried again");
  }
}

void test_a_way_that_becomes_faster() {
  Trials<2> trials;
  calls<2>(trials, {1, 2}, 10'000, 0, {true, true});
  calls<2>(trials, {1, 0.5}, 2 * Trials<2>::kLongestCycle, 1, {true, true});
  const unsigned went = calls<2>(trials, {1, 0.5}, 1000, 1, {true, true});
  EXPECT(went > 900, "of 1000 calls only ", went, " went the way that became the faster one");
}

void test_a_way_that_becomes_slower() {
  Trials<2> trials;
  calls<2>(trials, {1, 2}, 10'000, 0, {true, true});
  const unsigned went = calls<2>(trials, {8, 2}, 1000, 1, {true, true});
  EXPECT(went > 900, "of 1000 calls only ", went, " left the way that became slow");
}

void test_hardly_faster_is_no_reason() {
  Trials<2> trials;
  calls<2>(trials, {1, 2}, 1000, 0, {true, true});
  const unsigned went = calls<2>(trials, {1, 0.97}, 10'000, 1, {true, true});
  EXPECT(went < 1000, went, " of 10000 calls changed ways for three hundredths");
}

void test_closed_ways() {
  Trials<3> trials;
  calls<3>(trials, {3, 1, 2}, 1000, 1, {true, true, true});
  const unsigned went = calls<3>(trials, {3, 1, 2}, 1000, 2, {true, false, true});
  EXPECT(went > 900, "of 1000 calls only ", went, " went the best way that was open");
  const unsigned alone = calls<3>(trials, {3, 1, 2}, 1000, 0, {true, false, false});
  EXPECT(alone == 1000, "only one way is open");
}

}  // namespace
}  // namespace quoit::test

int main() {
  quoit::test::test_the_fastest_is_taken();
  quoit::test::test_a_way_that_becomes_faster();
  quoit::test::test_a_way_that_becomes_slower();
  quoit::test::test_hardly_faster_is_no_reason();
  quoit::test::test_closed_ways();
  return quoit::test::verdict();
}
