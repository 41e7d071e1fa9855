// Where ranks are, and what follows from it: shapes, rings and lanes, and cores that do not
// suffice.
#include "collective/placement.h"

#include "checks.h"
#include "core/host.h"

namespace quoit::test {
namespace {

void test_shapes() {
  const Shape even = shape_of({0, 0, 1, 1});
  EXPECT(even.hosts == 2 && even.ranks_per_host == 2, "two hosts of two ranks");
  const Shape uneven = shape_of({0, 1, 1, 1});
  EXPECT(uneven.hosts == 2 && uneven.ranks_per_host == 3, "the most that a host has count");
}

void test_rings() {
  const Ring ring = ring_by_host({0, 1, 0, 1}, 2);
  EXPECT((ring.ranks == std::vector{0, 2, 1, 3}), "hosts one after another");
  EXPECT(ring.position == 1, "rank 2 is next to rank 0, not at ", ring.position);
  const Lanes lanes = lanes_over({0, 1, 0, 1, 1}, 4);
  EXPECT(lanes.count == 2 && !lanes.member, "the third rank of a host is in none of two lanes");
  const Lanes second = lanes_over({0, 1, 0, 1, 1}, 3);
  EXPECT(second.member && (second.ring.ranks == std::vector{2, 3}), "the second of each host");
}

void test_words_for_cpus() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  for (const int cpu : {0, 3, 64, CPU_SETSIZE - 1}) CPU_SET(cpu, &cpus);
  cpu_set_t read = read_cpus(written(cpus));
  EXPECT(CPU_EQUAL(&cpus, &read), "not what was written");
  read = read_cpus(written(read_cpus("")));
  EXPECT(CPU_COUNT(&read) == 0, "of none there are ", CPU_COUNT(&read));
  cpu_set_t ours = usable_cpus();
  read = read_cpus(written(ours));
  EXPECT(CPU_EQUAL(&ours, &read), "not those of this process");
}

void test_cores_that_run_out() {
  const auto seat = [](const std::string& machine, const std::string& cpus) {
    return Seat{machine, read_cpus(cpus)};
  };
  EXPECT(!oversubscribed({seat("a", "1"), seat("a", "01")}, 0), "a core each");
  EXPECT(oversubscribed({seat("a", "1"), seat("a", "1")}, 1), "one core for both");
  EXPECT(!oversubscribed({seat("a", "1"), seat("b", "1")}, 1), "of two machines");
  EXPECT(!oversubscribed({seat("a", "11"), seat("a", "11")}, 0), "two for two");
  const std::vector<Seat> world = {seat("a", "11"), seat("a", "11"), seat("a", "11"),
                                   seat("b", "1")};
  EXPECT(oversubscribed(world, 1), "three on two cores");
  EXPECT(!oversubscribed(world, 3), "alone on its machine");
}

}  // namespace
}  // namespace quoit::test

int main() {
  quoit::test::test_shapes();
  quoit::test::test_rings();
  quoit::test::test_words_for_cpus();
  quoit::test::test_cores_that_run_out();
  return quoit::test::verdict();
}
