#include "collective/device_direct.h"

#include <algorithm>
#include <cstring>

#include "collective/windows.h"

namespace quoit {
namespace {

// Up to so many bytes one step is cheapest: everybody publishes all, everybody reduces all.
constexpr std::size_t kOneStep = 256 * 1024;

using Step = DeviceLane::Step;

std::size_t span_of(DType dtype) { return DeviceLane::kSlot / size_of(dtype); }

const View& of_rank(const std::vector<View>& views, int rank) {
  return views[static_cast<std::size_t>(rank)];
}

// Copies that go in one launch.
class Copies {
 public:
  explicit Copies(DeviceLane& lane) : lane_(lane) {}

  void add(const std::byte* from, std::byte* to, std::size_t bytes) {
    if (bytes > 0 && from != to) all_.push_back({from, to, bytes});
  }
  void launch() {
    if (!all_.empty()) lane_.copy(all_);
    all_.clear();
  }

 private:
  DeviceLane& lane_;
  std::vector<cuda::Copy> all_;
};

// A slot cut into one block for each other rank, each of `span` elements: whole cache lines.
struct Blocks {
  Blocks(DeviceLane& lane, DType dtype)
      : lane(lane),
        item(size_of(dtype)),
        span(block_span(DeviceLane::kSlot, lane.size(), kLine, dtype)) {}

  // Where rank `holder` puts what is meant for rank `owner`, another one.
  [[nodiscard]] std::byte* at(int owner, int holder, const Step& step) const {
    return lane.slot(holder, step) + block_for(owner, holder) * span * item;
  }

  // Puts step k of every part that is meant for somebody else.
  void put(const std::vector<View>& parts, std::size_t k, const Step& step) const {
    Copies copies(lane);
    for (int r = 0; r < lane.size(); ++r) {
      if (r == lane.rank()) continue;
      const View part = window(of_rank(parts, r), k, span);
      copies.add(part.data, at(r, lane.rank(), step), part.bytes());
    }
    copies.launch();
  }

  static constexpr std::size_t kLine = 256;

  DeviceLane& lane;
  std::size_t item;
  std::size_t span;
};

// The skeleton of most collectives: `write(k, step)` fills this rank's slot, `read(k, step)` uses
// the others'. A rank publishes one step ahead of the one it reads.
template <class Write, class Read>
Task run_steps(DeviceLane& lane, const Call& call, std::size_t steps, Write write, Read read) {
  const auto publish = [&](std::size_t k) {
    write(k, lane.next());
    return lane.publish(call);
  };
  Step current = publish(0);
  for (std::size_t k = 0; k < steps; ++k) {
    const Step next = k + 1 < steps ? publish(k + 1) : current;
    Stepped everyone(lane, current);
    co_await everyone;
    read(k, current);
    current = next;
  }
}

Task one_step_all_reduce(DeviceLane& lane, Call call, View in, View out, ReduceStep step) {
  lane.copy(in.data, lane.slot(lane.rank(), lane.next()), in.bytes());
  const Step all = lane.publish(call);
  Stepped everyone(lane, all);
  co_await everyone;
  const std::span inputs = lane.inputs();
  for (int r = 0; r < lane.size(); ++r) inputs[static_cast<std::size_t>(r)] = lane.slot(r, all);
  lane.reduce(in.dtype, step, inputs, out.data, nullptr, out.count);
}

// Two steps for every span of the buffer: publish all of it; reduce the own piece out of all slots,
// straight into `out` and into the own slot; copy the others' results. The next span is published
// before this one is reduced.
Task all_reduce_steps(DeviceLane& lane, Call call, View in, View out, ReduceStep step,
                      int receiver) {
  const int me = lane.rank();
  const auto n = static_cast<std::size_t>(lane.size());
  const std::size_t item = size_of(in.dtype);
  const std::size_t span = span_of(in.dtype);
  const std::size_t spans = rounds_for(in.count, span);
  const bool receives = receiver < 0 || receiver == me;
  const auto piece_of = [&](View from, std::size_t r) { return Slice{0, from.count}.piece(n, r); };

  // What others own: all but the own piece.
  const auto stage = [&](std::size_t k) {
    const View all = window(in, k, span);
    const Slice mine = piece_of(all, static_cast<std::size_t>(me));
    std::byte* const slot = lane.slot(me, lane.next());
    const std::size_t end = mine.begin + mine.count;
    Copies copies(lane);
    copies.add(all.data, slot, mine.begin * item);
    copies.add(all.data + end * item, slot + end * item, (all.count - end) * item);
    copies.launch();
    return lane.publish(call);
  };

  Step staged = stage(0);
  Step ahead = spans > 1 ? stage(1) : staged;
  for (std::size_t k = 0; k < spans; ++k) {
    const View from = window(in, k, span);
    const View to = receives ? window(out, k, span) : View{};
    Stepped contributions(lane, staged);
    co_await contributions;
    const Slice mine = piece_of(from, static_cast<std::size_t>(me));
    const std::span inputs = lane.inputs();
    for (std::size_t r = 0; r < n; ++r)
      inputs[r] = static_cast<int>(r) == me
                      ? from.at(mine).data
                      : lane.slot(static_cast<int>(r), staged) + mine.begin * item;
    std::byte* const shared = lane.slot(me, lane.next()) + mine.begin * item;
    if (receives)
      lane.reduce(in.dtype, step, inputs, to.at(mine).data, n > 1 ? shared : nullptr, mine.count);
    else
      lane.reduce(in.dtype, step, inputs, shared, nullptr, mine.count);
    const Step reduced = lane.publish(call);
    Stepped results(lane, reduced);
    co_await results;
    Copies copies(lane);
    for (std::size_t d = 1; receives && d < n; ++d) {
      const std::size_t peer = (static_cast<std::size_t>(me) + d) % n;
      const Slice theirs = piece_of(from, peer);
      copies.add(lane.slot(static_cast<int>(peer), reduced) + theirs.begin * item,
                 to.at(theirs).data, theirs.count * item);
    }
    copies.launch();
    staged = ahead;
    if (k + 2 < spans) ahead = stage(k + 2);
  }
}

// What ranks tell each other about an uneven all_to_all: how many elements each gives to each, and
// takes from each. All see all of it, so that a mismatch is found by everybody.
struct Sizes {
  Sizes(Board& board, Board::Round round)
      : board(board), round(round), n(static_cast<std::size_t>(board.size())) {}

  [[nodiscard]] std::uint64_t* of(int rank) const {
    return reinterpret_cast<std::uint64_t*>(
        board.payload(rank, round, std::max(2 * n * sizeof(std::uint64_t), Board::kInline + 1)));
  }
  [[nodiscard]] std::uint64_t given(int from, int to) const { return of(from)[to]; }
  [[nodiscard]] std::uint64_t taken(int to, int from) const {
    return of(to)[n + static_cast<std::size_t>(from)];
  }

  void write(const std::vector<View>& ins, const std::vector<View>& outs) const {
    std::uint64_t* const mine = of(board.rank());
    for (std::size_t r = 0; r < n; ++r) {
      mine[r] = ins[r].count;
      mine[n + r] = outs[r].count;
    }
  }

  // Throws TransportError where a rank gives what another does not expect; returns the longest
  // block.
  [[nodiscard]] std::size_t longest(DType dtype) const {
    std::uint64_t most = 0;
    for (int from = 0; from < board.size(); ++from)
      for (int to = 0; to < board.size(); ++to) {
        const std::uint64_t count = given(from, to);
        QUOIT_CHECK(count == taken(to, from), TransportError, "rank ", from, " sent ",
                    count * size_of(dtype), " bytes, rank ", to, " expected ",
                    taken(to, from) * size_of(dtype),
                    ": both sides must pass tensors of the same size and dtype");
        most = std::max(most, count);
      }
    return most;
  }

  Board& board;
  Board::Round round;
  std::size_t n;
};

}  // namespace

Task device_all_reduce(DeviceLane& lane, Call call, View in, View out, ReduceStep step) {
  if (in.bytes() <= kOneStep) return one_step_all_reduce(lane, call, in, out, step);
  return all_reduce_steps(lane, call, in, out, step, /*receiver=*/-1);
}

Task device_reduce(DeviceLane& lane, Call call, View in, View out, ReduceStep step, int root) {
  return all_reduce_steps(lane, call, in, out, step, root);
}

Task device_reduce_scatter(DeviceLane& lane, Call call, std::vector<View> in, View out,
                           ReduceStep step) {
  const int me = lane.rank();
  const Blocks blocks(lane, out.dtype);
  const auto write = [&](std::size_t k, const Step& at) { blocks.put(in, k, at); };
  const auto read = [&](std::size_t k, const Step& at) {
    const View mine = window(of_rank(in, me), k, blocks.span);
    const std::span inputs = lane.inputs();
    for (int r = 0; r < lane.size(); ++r)
      inputs[static_cast<std::size_t>(r)] = r == me ? mine.data : blocks.at(me, r, at);
    lane.reduce(out.dtype, step, inputs, window(out, k, blocks.span).data, nullptr, mine.count);
  };
  co_await run_steps(lane, call, rounds_for(longest(in), blocks.span), write, read);
}

Task device_all_gather(DeviceLane& lane, Call call, View in, std::vector<View> outs) {
  const int me = lane.rank();
  const std::size_t span = span_of(in.dtype);
  const auto write = [&](std::size_t k, const Step& at) {
    const View part = window(in, k, span);
    Copies copies(lane);
    copies.add(part.data, lane.slot(me, at), part.bytes());
    copies.add(part.data, window(of_rank(outs, me), k, span).data, part.bytes());
    copies.launch();
  };
  const auto read = [&](std::size_t k, const Step& at) {
    Copies copies(lane);
    for (int r = 0; r < lane.size(); ++r) {
      if (r == me) continue;
      const View part = window(of_rank(outs, r), k, span);
      copies.add(lane.slot(r, at), part.data, part.bytes());
    }
    copies.launch();
  };
  co_await run_steps(lane, call, rounds_for(longest(outs), span), write, read);
}

Task device_all_to_all(DeviceLane& lane, Call call, std::vector<View> ins, std::vector<View> outs,
                       bool uneven) {
  const int me = lane.rank();
  const Blocks blocks(lane, ins[0].dtype);
  std::size_t most = longest(ins);
  if (uneven) {
    const Sizes sizes(lane.board(), lane.next().round);
    sizes.write(ins, outs);
    Stepped told(lane, lane.publish(call));
    co_await told;
    most = sizes.longest(ins[0].dtype);
  }
  const auto write = [&](std::size_t k, const Step& at) { blocks.put(ins, k, at); };
  const auto read = [&](std::size_t k, const Step& at) {
    Copies copies(lane);
    for (int r = 0; r < lane.size(); ++r) {
      const View part = window(of_rank(outs, r), k, blocks.span);
      if (r != me) copies.add(blocks.at(me, r, at), part.data, part.bytes());
    }
    copies.launch();
  };
  lane.copy(of_rank(ins, me).data, of_rank(outs, me).data, of_rank(ins, me).bytes());
  co_await run_steps(lane, call, rounds_for(most, blocks.span), write, read);
}

Task device_broadcast(DeviceLane& lane, Call call, View data, int root) {
  const bool sends = lane.rank() == root;
  const std::size_t span = span_of(data.dtype);
  const auto write = [&](std::size_t k, const Step& at) {
    const View part = window(data, k, span);
    if (sends) lane.copy(part.data, lane.slot(root, at), part.bytes());
  };
  const auto read = [&](std::size_t k, const Step& at) {
    const View part = window(data, k, span);
    if (!sends) lane.copy(lane.slot(root, at), part.data, part.bytes());
  };
  co_await run_steps(lane, call, rounds_for(data.count, span), write, read);
}

Task device_gather(DeviceLane& lane, Call call, View in, std::vector<View> outs, int root) {
  const int me = lane.rank();
  const std::size_t span = span_of(in.dtype);
  const auto write = [&](std::size_t k, const Step& at) {
    const View part = window(in, k, span);
    if (me != root) lane.copy(part.data, lane.slot(me, at), part.bytes());
  };
  const auto read = [&](std::size_t k, const Step& at) {
    if (me != root) return;
    Copies copies(lane);
    for (int r = 0; r < lane.size(); ++r) {
      const View part = window(of_rank(outs, r), k, span);
      if (r != me) copies.add(lane.slot(r, at), part.data, part.bytes());
    }
    copies.launch();
  };
  if (me == root) lane.copy(in.data, of_rank(outs, me).data, in.bytes());
  co_await run_steps(lane, call, rounds_for(in.count, span), write, read);
}

Task device_scatter(DeviceLane& lane, Call call, std::vector<View> ins, View out, int root) {
  const int me = lane.rank();
  const Blocks blocks(lane, out.dtype);
  const auto write = [&](std::size_t k, const Step& at) {
    if (me == root) blocks.put(ins, k, at);
  };
  const auto read = [&](std::size_t k, const Step& at) {
    const View part = window(out, k, blocks.span);
    if (me != root) lane.copy(blocks.at(me, root, at), part.data, part.bytes());
  };
  if (me == root) lane.copy(of_rank(ins, me).data, out.data, out.bytes());
  co_await run_steps(lane, call, rounds_for(out.count, blocks.span), write, read);
}

Task device_barrier(DeviceLane& lane, Call call) {
  Stepped everyone(lane, lane.publish(call));
  co_await everyone;
}

}  // namespace quoit
