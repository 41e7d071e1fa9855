#pragma once
// Ring collectives over any network (Patarasuk & Yuan, "Bandwidth optimal all-reduce algorithms for
// clusters of workstations", 2009). The plan of a pass is plain data, apart from its run.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "collective/hands.h"
#include "core/types.h"

namespace quoit {

// Two segments are in flight: one on the wire while the one before it is reduced.
inline constexpr std::size_t kInFlight = 2;

// A ring of `size` ranks, seen from the one at `position`.
struct Ring {
  std::vector<int> ranks;  // of the group, in ring order
  int position = 0;

  [[nodiscard]] int size() const { return static_cast<int>(ranks.size()); }
  [[nodiscard]] int wrap(int i) const { return ((i % size()) + size()) % size(); }
  [[nodiscard]] int rank_at(int i) const { return ranks[static_cast<std::size_t>(wrap(i))]; }
  [[nodiscard]] int next() const { return rank_at(position + 1); }
  [[nodiscard]] int prev() const { return rank_at(position - 1); }

  // Where in the ring `rank` stands.
  [[nodiscard]] int position_of(int rank) const {
    return static_cast<int>(std::find(ranks.begin(), ranks.end(), rank) - ranks.begin());
  }
};

// One exchange: a slice to the next rank, a slice from the previous one.
struct Hop {
  Slice send;
  Slice recv;
  bool last = false;  // of the pass, for this chunk: what arrives has been round the ring
};

// One pass round the ring over the given chunks: pass on chunk `first`, then whatever just arrived.
// A chunk has at least kInFlight segments of at most `max_segment` elements, so that a segment is
// never sent before it has arrived and been dealt with.
std::vector<Hop> plan_pass(const Ring& ring, const std::vector<Slice>& chunks, int first,
                           std::size_t max_segment);

// `data` cut into one nearly equal chunk per rank.
std::vector<Slice> equal_chunks(std::size_t count, int ranks);

// Memory that the collectives of a group, which run one at a time, reuse from call to call. They
// hold it themselves, because what a failed one left in flight may outlive the group.
class Scratch {
 public:
  // Allocates that many bytes; empty: of the host's memory.
  using Source = std::function<std::shared_ptr<std::byte>(std::size_t bytes)>;

  Scratch() = default;
  explicit Scratch(Source source) : source_(std::move(source)) {}

  std::byte* get(std::size_t bytes) {
    if (source_) return get_elsewhere(bytes);
    if (memory_.size() < bytes) memory_.resize(bytes);
    return memory_.data();
  }

 private:
  // What was too small stays, as work that has not come to its end may use it: less than this.
  std::byte* get_elsewhere(std::size_t bytes) {
    if (blocks_.empty() || bytes_ < bytes) {
      bytes_ = std::bit_ceil(std::max(bytes, kSmallest));
      blocks_.push_back(source_(bytes_));
    }
    return blocks_.back().get();
  }

  static constexpr std::size_t kSmallest = std::size_t{1} << 20;

  std::vector<std::byte> memory_;
  Source source_;
  std::size_t bytes_ = 0;
  std::vector<std::shared_ptr<std::byte>> blocks_;
};
struct Workspace {
  Workspace() = default;
  explicit Workspace(const Scratch::Source& source) : segments(source), copy(source) {}

  Scratch segments;  // where segments land before they are reduced
  Scratch copy;      // of an input that must not change
  Scratch factors;   // of low-rank parts; the host's
};

// Copies a rank's own input to where messages will meet it; PREMUL_SUM scales it on the way.
// Returns what is left to do for every further operand.
ReduceStep load_input(const Hands& hands, View in, View out, ReduceStep step);

// Reduces `in` over the ranks of the ring into `out`, which may be the same memory.
Task ring_all_reduce(Hands hands, Ring ring, View in, View out, ReduceStep step,
                     std::shared_ptr<Workspace> workspace);

// Block i of `in` is reduced into the `out` of the rank at position i of the ring.
Task ring_reduce_scatter(Hands hands, Ring ring, std::vector<View> in, View out, ReduceStep step,
                         std::shared_ptr<Workspace> workspace);

// outs[i] receives the `in` of the rank at position i of the ring.
Task ring_all_gather(Hands hands, Ring ring, View in, std::vector<View> outs);

}  // namespace quoit
