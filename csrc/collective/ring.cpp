#include "collective/ring.h"

#include <algorithm>
#include <array>
#include <optional>

namespace quoit {
namespace {

constexpr std::size_t kSegment = 512 * 1024;  // bytes on the wire at a time

// Runs the hops of a pass. `out` and `in` say where a hop's slices lie; `arrive` says what happens
// to one that has come.
template <class Out, class In, class Arrive>
Task run_pass(const Hands& hands, const Ring& ring, std::vector<Hop> hops, Out out, In in,
              Arrive arrive) {
  std::array<std::optional<Exchange>, kInFlight> flight;
  for (std::size_t i = 0; i < hops.size() + kInFlight; ++i) {
    const std::size_t slot = i % kInFlight;
    if (i >= kInFlight) {
      co_await *flight[slot];
      arrive(hops[i - kInFlight], slot);
      co_await hands.settled();
    }
    if (i < hops.size())
      flight[slot].emplace(
          hands.exchange(ring.next(), out(hops[i].send), ring.prev(), in(hops[i].recv, slot)));
  }
}

std::size_t longest(const std::vector<Slice>& chunks) {
  std::size_t count = 0;
  for (const Slice& chunk : chunks) count = std::max(count, chunk.count);
  return count;
}

// The reduce-scatter pass: chunk c ends, reduced, at position c + shift - 1 of the ring.
Task reduce_pass(const Hands& hands, const Ring& ring, View data, const std::vector<Slice>& chunks,
                 int first, ReduceStep step, Scratch& segments) {
  const std::size_t max_segment = std::max<std::size_t>(1, kSegment / size_of(data.dtype));
  const std::size_t slot_bytes =
      std::min(max_segment, std::max<std::size_t>(1, longest(chunks))) * size_of(data.dtype);
  std::byte* const slots = segments.get(kInFlight * slot_bytes);
  const auto in_data = [data](Slice s) { return data.at(s).raw(); };
  const auto in_slot = [=](Slice s, std::size_t slot) {
    return Bytes{slots + slot * slot_bytes, s.count * size_of(data.dtype)};
  };
  const auto add = [=](const Hop& hop, std::size_t slot) {
    const View mine = data.at(hop.recv);
    const std::array<const std::byte*, 2> inputs{in_slot(hop.recv, slot).data(), mine.data};
    // The average divides once, when the chunk has been everywhere.
    const ReduceStep now{step.op, 1.0, hop.last ? step.divide_by : 1};
    hands.reduce(data.dtype, now, inputs, mine.data, mine.count);
  };
  co_await run_pass(hands, ring, plan_pass(ring, chunks, first, max_segment), in_data, in_slot,
                    add);
}

// The all-gather pass: pass finished chunks on until everybody has all.
Task gather_pass(const Hands& hands, const Ring& ring, View data, const std::vector<Slice>& chunks,
                 int first) {
  const std::size_t max_segment = std::max<std::size_t>(1, kSegment / size_of(data.dtype));
  const auto in_data = [data](Slice s) { return data.at(s).raw(); };
  const auto in_place = [data](Slice s, std::size_t) { return data.at(s).raw(); };
  const auto nothing = [](const Hop&, std::size_t) {};
  co_await run_pass(hands, ring, plan_pass(ring, chunks, first, max_segment), in_data, in_place,
                    nothing);
}

}  // namespace

ReduceStep load_input(const Hands& hands, View in, View out, ReduceStep step) {
  const std::array<const std::byte*, 1> input{in.data};
  if (step.op == ReduceOp::PremulSum)
    hands.reduce(in.dtype, step, input, out.data, in.count);
  else
    hands.copy(in.data, out.data, in.bytes());
  return {step.op == ReduceOp::PremulSum ? ReduceOp::Sum : step.op, 1.0, step.divide_by};
}

std::vector<Hop> plan_pass(const Ring& ring, const std::vector<Slice>& chunks, int first,
                           std::size_t max_segment) {
  const std::size_t segments = std::max(kInFlight, ceil_div(longest(chunks), max_segment));
  std::vector<Hop> hops;
  hops.reserve(static_cast<std::size_t>(ring.size() - 1) * segments);
  for (int step = 0; step + 1 < ring.size(); ++step)
    for (std::size_t s = 0; s < segments; ++s) {
      const auto segment = [&](int chunk) {
        return chunks[static_cast<std::size_t>(ring.wrap(chunk))].piece(segments, s);
      };
      hops.push_back({segment(first - step), segment(first - step - 1), step + 2 == ring.size()});
    }
  return hops;
}

std::vector<Slice> equal_chunks(std::size_t count, int ranks) {
  std::vector<Slice> chunks;
  for (int i = 0; i < ranks; ++i)
    chunks.push_back(
        Slice{0, count}.piece(static_cast<std::size_t>(ranks), static_cast<std::size_t>(i)));
  return chunks;
}

Task ring_all_reduce(Hands hands, Ring ring, View in, View out, ReduceStep step,
                     std::shared_ptr<Workspace> workspace) {
  step = load_input(hands, in, out, step);
  co_await hands.settled();
  const std::vector<Slice> chunks = equal_chunks(out.count, ring.size());
  co_await reduce_pass(hands, ring, out, chunks, ring.position, step, workspace->segments);
  // Position p now holds finished chunk p + 1; a second pass hands every chunk to every rank.
  co_await gather_pass(hands, ring, out, chunks, ring.position + 1);
}

Task ring_reduce_scatter(Hands hands, Ring ring, std::vector<View> in, View out, ReduceStep step,
                         std::shared_ptr<Workspace> workspace) {
  std::vector<Slice> chunks;
  std::size_t count = 0;
  for (const View& block : in) {
    chunks.push_back({count, block.count});
    count += block.count;
  }
  const View data{workspace->copy.get(count * size_of(out.dtype)), count, out.dtype};
  ReduceStep loaded = step;
  for (std::size_t i = 0; i < in.size(); ++i)
    loaded = load_input(hands, in[i], data.at(chunks[i]), step);
  co_await hands.settled();
  // Starting one chunk back, the own chunk is the one that comes home.
  co_await reduce_pass(hands, ring, data, chunks, ring.position - 1, loaded, workspace->segments);
  const View mine = data.at(chunks[static_cast<std::size_t>(ring.position)]);
  hands.copy(mine.data, out.data, mine.bytes());
}

Task ring_all_gather(Hands hands, Ring ring, View in, std::vector<View> outs) {
  const View mine = outs[static_cast<std::size_t>(ring.position)];
  hands.copy(in.data, mine.data, in.bytes());
  co_await hands.settled();
  // The parts lie anywhere in memory: one exchange per part and step.
  for (int step = 0; step + 1 < ring.size(); ++step) {
    const View out = outs[static_cast<std::size_t>(ring.wrap(ring.position - step))];
    const View into = outs[static_cast<std::size_t>(ring.wrap(ring.position - step - 1))];
    Exchange exchange = hands.exchange(ring.next(), out.raw(), ring.prev(), into.raw());
    co_await exchange;
  }
}

}  // namespace quoit
