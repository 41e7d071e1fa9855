#include "collective/placement.h"

#include <algorithm>
#include <map>
#include <numeric>

namespace quoit {

Shape shape_of(const std::vector<int>& host_of) {
  std::map<int, int> ranks_on;
  for (const int host : host_of) ++ranks_on[host];
  Shape shape{static_cast<int>(host_of.size()), static_cast<int>(ranks_on.size()), 1};
  for (const auto& [host, ranks] : ranks_on)
    shape.ranks_per_host = std::max(shape.ranks_per_host, ranks);
  return shape;
}

Ring ring_by_host(const std::vector<int>& host_of, int rank) {
  Ring ring;
  ring.ranks.resize(host_of.size());
  std::iota(ring.ranks.begin(), ring.ranks.end(), 0);
  std::stable_sort(ring.ranks.begin(), ring.ranks.end(), [&](int a, int b) {
    return host_of[static_cast<std::size_t>(a)] < host_of[static_cast<std::size_t>(b)];
  });
  ring.position = ring.position_of(rank);
  return ring;
}

Lanes lanes_over(const std::vector<int>& host_of, int rank) {
  std::map<int, std::vector<int>> hosts;
  for (std::size_t r = 0; r < host_of.size(); ++r) hosts[host_of[r]].push_back(static_cast<int>(r));
  const std::vector<int>& here = hosts[host_of[static_cast<std::size_t>(rank)]];
  const auto local =
      static_cast<std::size_t>(std::find(here.begin(), here.end(), rank) - here.begin());

  Lanes lanes;
  lanes.count = static_cast<int>(host_of.size());
  for (const auto& [host, ranks] : hosts)
    lanes.count = std::min(lanes.count, static_cast<int>(ranks.size()));
  lanes.member = static_cast<int>(local) < lanes.count;
  if (!lanes.member) return lanes;
  for (const auto& [host, ranks] : hosts) lanes.ring.ranks.push_back(ranks[local]);
  lanes.ring.position = lanes.ring.position_of(rank);
  return lanes;
}

bool oversubscribed(const std::vector<Seat>& seats, int rank) {
  const Seat& mine = seats[static_cast<std::size_t>(rank)];
  cpu_set_t all = mine.cpus;
  int ranks = 0;
  for (const Seat& seat : seats) {
    if (seat.machine != mine.machine) continue;
    CPU_OR(&all, &all, &seat.cpus);
    ++ranks;
  }
  return ranks > CPU_COUNT(&all);
}

}  // namespace quoit
