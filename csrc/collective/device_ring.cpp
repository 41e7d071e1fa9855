// An all-reduce round the ring, chunk by chunk, on memory of devices.
#include <algorithm>
#include <array>

#include "collective/device_direct.h"
#include "collective/windows.h"

namespace quoit {
namespace {

int wrapped(int position, int size) { return ((position % size) + size) % size; }

}  // namespace

// As ring.cpp has it: a chunk goes round once to be added up, and once more to be handed to all. A
// hop is a step: each rank publishes its slot, and reads that of the rank before it.
Task device_ring_all_reduce(DeviceLane& lane, Call call, View in, View out, ReduceStep step) {
  const int me = lane.rank();
  const int n = lane.size();
  const auto ranks = static_cast<std::size_t>(n);
  const int before = wrapped(me - 1, n);
  const std::size_t item = size_of(in.dtype);
  const std::size_t span = ranks * (DeviceLane::kSlot / item);
  const std::size_t spans = rounds_for(in.count, span);
  View source = in;
  ReduceStep adding{step.op, 1.0, 1};
  if (step.op == ReduceOp::PremulSum) {
    const std::array<const std::byte*, 1> input{in.data};
    lane.reduce(in.dtype, step, input, out.data, nullptr, in.count);
    source = out;
    adding.op = ReduceOp::Sum;
  }
  for (std::size_t k = 0; k < spans; ++k) {
    const std::size_t begin = k * span;
    const Slice part{begin, std::min(span, in.count - begin)};
    const auto chunk = [&](int c) {
      return part.piece(ranks, static_cast<std::size_t>(wrapped(c, n)));
    };
    if (n == 1) {
      const std::array<const std::byte*, 1> input{source.at(part).data};
      const ReduceStep last{adding.op, 1.0, step.divide_by};
      lane.reduce(in.dtype, last, input, out.at(part).data, nullptr, part.count);
    } else {
      const View first = source.at(chunk(me));
      lane.copy(first.data, lane.slot(me, lane.next()), first.bytes());
    }
    DeviceLane::Step hop = lane.publish(call);
    for (int h = 0; h + 1 < n; ++h) {
      Stepped everyone(lane, hop);
      co_await everyone;
      const Slice came = chunk(me - h - 1);
      const bool last = h + 2 == n;
      // The average divides once, when the chunk has been everywhere.
      const ReduceStep now{adding.op, 1.0, last ? step.divide_by : 1};
      const std::array<const std::byte*, 2> inputs{lane.slot(before, hop), source.at(came).data};
      std::byte* const slot = lane.slot(me, lane.next());
      if (last)
        lane.reduce(in.dtype, now, inputs, out.at(came).data, slot, came.count);
      else
        lane.reduce(in.dtype, now, inputs, slot, nullptr, came.count);
      hop = lane.publish(call);
    }
    for (int h = 0; h + 1 < n; ++h) {
      Stepped everyone(lane, hop);
      co_await everyone;
      const View came = out.at(chunk(me - h));
      const std::byte* const theirs = lane.slot(before, hop);
      const bool last = h + 2 == n;
      const std::array<cuda::Copy, 2> copies{
          {{theirs, came.data, came.bytes()},
           {theirs, lane.slot(me, lane.next()), last ? 0 : came.bytes()}}};
      if (came.count > 0) lane.copy(copies);
      if (!last) hop = lane.publish(call);
    }
    if (n == 1) {
      Stepped alone(lane, hop);
      co_await alone;
    }
  }
}

}  // namespace quoit
