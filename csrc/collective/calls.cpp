// The collectives and messages of a communicator: each says what it touches, and makes the task.
#include <algorithm>

#include "collective/communicator.h"
#include "collective/device_direct.h"
#include "collective/recursive.h"

namespace quoit {
namespace {

bool equal_sizes(const std::vector<View>& views) {
  return std::all_of(views.begin(), views.end(),
                     [&](const View& v) { return v.count == views[0].count; });
}

// Copies the views of ring positions out of views by rank.
std::vector<View> in_ring_order(const std::vector<View>& by_rank, const Ring& ring) {
  std::vector<View> views;
  for (const int rank : ring.ranks) views.push_back(by_rank[static_cast<std::size_t>(rank)]);
  return views;
}

// Whoever has messages in flight may compute, or wait for them in a moment.
void as_message(CallOptions& options) {
  if (options.mode == Engine::Mode::Background) options.mode = Engine::Mode::Either;
}

}  // namespace

// Ranks compare calls. Those that share one host do it on the board, where a direct collective
// would look, so that ranks which go different ways find out as well. All come to it, or nobody
// goes on.
Task Communicator::greeting(Call call) {
  return shape_.hosts == 1 ? direct_barrier(board(), call) : greet(*us_.network, ring_, call);
}

// Beside the collective itself, so that it takes no time of its own. `both` is there to live as
// long as the run.
Task Communicator::greeted(Call call, Task work, std::optional<Together> both) {
  co_await both.emplace(greeting(call), std::move(work));
}

// For what ranks can find wrong only on the way: nobody is done before everybody found it right.
Task Communicator::concluded(Call call, Task first) {
  co_await std::move(first);
  co_await greeting(call);
}

// Nothing else may be on the way while links are measured.
Task Communicator::measured(Call call, int passes) {
  co_await greeting(call);
  co_await settle_costs(call, passes);
}

// For collectives that can go several ways: `make(way)` is the task.
template <class Make>
Task Communicator::routed(Hands hands, Call call, std::size_t bytes, Make make) {
  if (!costs_settled_) co_await measured(call, 1);
  const bool on_host = hands.device() == nullptr;
  // Between devices there is nothing but messages.
  const Algorithm way =
      way_for(call, bytes, on_host ? shape_ : Shape{shape_.ranks, shape_.ranks, 1});
  // The messages of a doubling between hosts are a greeting themselves.
  if (call.op == Op::AllReduce && way == Algorithm::Doubling && shape_.hosts > 1 && on_host)
    co_await make(way);
  else
    co_await greeted(call, make(way));
}

Communicator::Handle Communicator::all_reduce(View in, View out, Reduction reduction,
                                              CallOptions options) {
  QUOIT_CHECK(in.count == out.count && in.dtype == out.dtype, UsageError, "all_reduce: input is ",
              name_of(in.dtype), "[", in.count, "], output is ", name_of(out.dtype), "[", out.count,
              "]: they must be alike");
  const ReduceStep step = step_of(in.dtype, reduction);
  Call call = next_call(Op::AllReduce, in.dtype, in.count, -1, reduction.op);
  if (DeviceLane* const lane = lane_for(call, options))
    return launch(call, options, *lane,
                  us_.algorithm == Algorithm::Ring
                      ? device_ring_all_reduce(*lane, call, in, out, step)
                      : device_all_reduce(*lane, call, in, out, step));
  const Hands hands = hands_for(call, options, DeviceReach::Adds);
  const std::size_t pieces =
      begin_staging(options, in.bytes(), [&] { return Staging::Touched{{in}, {out}}; });
  return run(call, options, pieces, [=, this](const Call& call, const Piece& piece) {
    return reduce_all(hands, call, piece(in), piece(out), step);
  });
}

Task Communicator::reduce_all(Hands hands, const Call& call, View in, View out, ReduceStep step) {
  if (direct_) return direct_all_reduce(board(), call, in, out, step);
  const auto by = [=, this](Algorithm way) {
    if (way == Algorithm::Hierarchy)
      return hierarchical_all_reduce(
          board(), *us_.network, lanes_,
          choose_across(static_cast<double>(in.bytes()), shape_, costs_).algorithm, call, in, out,
          step, workspace_);
    const bool greets = way == Algorithm::Doubling && hands.device() == nullptr;
    return message_all_reduce(way, greets ? Hands(*us_.network, kGreetingTag) : hands, ring_, call,
                              in, out, step, workspace_of(hands));
  };
  return routed(hands, call, in.bytes(), by);
}

Communicator::Handle Communicator::reduce(View in, View out, Reduction reduction, int root,
                                          CallOptions options) {
  check_rank(root, "root");
  QUOIT_CHECK(rank() != root || (in.count == out.count && in.dtype == out.dtype), UsageError,
              "reduce: input is ", name_of(in.dtype), "[", in.count, "], output is ",
              name_of(out.dtype), "[", out.count, "]: they must be alike");
  const ReduceStep step = step_of(in.dtype, reduction);
  Call call = next_call(Op::Reduce, in.dtype, in.count, root, reduction.op);
  if (DeviceLane* const lane = lane_for(call, options))
    return launch(call, options, *lane, device_reduce(*lane, call, in, out, step, root));
  const Hands hands = hands_for(call, options, DeviceReach::Adds);
  const std::size_t pieces = begin_staging(options, in.bytes(), [&] {
    return Staging::Touched{{in}, std::vector(rank() == root ? 1 : 0, out)};
  });
  return run(call, options, pieces, [=, this](const Call& call, const Piece& piece) {
    return reduce_to(root, hands, call, piece(in), rank() == root ? piece(out) : View{}, step);
  });
}

Task Communicator::reduce_to(int root, Hands hands, const Call& call, View in, View out,
                             ReduceStep step) {
  if (direct_) return direct_reduce(board(), call, in, out, step, root);
  const auto by = [=, this](Algorithm way) {
    return way == Algorithm::Tree
               ? tree_reduce(hands, ring_, in, out, step, root, workspace_of(hands))
               : ring_reduce(hands, ring_, in, out, step, root, workspace_of(hands));
  };
  return routed(hands, call, in.bytes(), by);
}

Communicator::Handle Communicator::broadcast(View data, int root, CallOptions options) {
  check_rank(root, "root");
  Call call = next_call(Op::Broadcast, data.dtype, data.count, root);
  if (DeviceLane* const lane = lane_for(call, options))
    return launch(call, options, *lane, device_broadcast(*lane, call, data, root));
  const Hands hands = hands_for(call, options, DeviceReach::Moves);
  const std::size_t pieces = begin_staging(options, data.bytes(), [&] {
    return rank() == root ? Staging::Touched{{data}, {}} : Staging::Touched{{}, {data}};
  });
  return run(call, options, pieces, [=, this](const Call& call, const Piece& piece) {
    return broadcast_from(root, hands, call, piece(data));
  });
}

Task Communicator::broadcast_from(int root, Hands hands, const Call& call, View data) {
  if (direct_) return direct_broadcast(board(), call, data, root);
  const auto by = [=, this](Algorithm way) {
    return way == Algorithm::Tree ? tree_broadcast(hands, ring_, data, root)
                                  : chain_broadcast(hands, ring_, data, root);
  };
  return routed(hands, call, data.bytes(), by);
}

Communicator::Handle Communicator::reduce_scatter(std::vector<View> in, View out,
                                                  Reduction reduction, CallOptions options) {
  check_views(in, out.dtype, "reduce_scatter input");
  const View& mine = in[static_cast<std::size_t>(rank())];
  QUOIT_CHECK(mine.count == out.count, UsageError, "reduce_scatter: block ", rank(),
              " of the input has ", mine.count, " elements, the output ", out.count,
              ": they must be alike");
  const ReduceStep step = step_of(out.dtype, reduction);
  Call call = next_call(Op::ReduceScatter, out.dtype, count_of(in), -1, reduction.op);
  call.blocks = digest_of_sizes(in);
  if (DeviceLane* const lane = lane_for(call, options))
    return launch(call, options, *lane,
                  device_reduce_scatter(*lane, call, std::move(in), out, step));
  const Hands hands = hands_for(call, options, DeviceReach::Adds);
  const std::size_t pieces =
      begin_staging(options, bytes_of(in), [&] { return Staging::Touched{in, {out}}; });
  return run(call, options, pieces,
             [=, this, in = std::move(in)](const Call& call, const Piece& piece) mutable {
               return reduce_blocks(hands, call, piece(in), piece(out), step);
             });
}

Task Communicator::reduce_blocks(Hands hands, const Call& call, std::vector<View> in, View out,
                                 ReduceStep step) {
  if (direct_) return direct_reduce_scatter(board(), call, std::move(in), out, step);
  const auto by = [=, this, blocks = in_ring_order(in, ring_)](Algorithm way) {
    return way == Algorithm::Halving
               ? halving_reduce_scatter(hands, ring_, blocks, out, step, workspace_of(hands))
               : ring_reduce_scatter(hands, ring_, blocks, out, step, workspace_of(hands));
  };
  return routed(hands, call, bytes_of(in), by);
}

Communicator::Handle Communicator::all_gather(View in, std::vector<View> outs,
                                              CallOptions options) {
  check_views(outs, in.dtype, "all_gather output");
  const View& mine = outs[static_cast<std::size_t>(rank())];
  QUOIT_CHECK(mine.count == in.count, UsageError, "all_gather: output ", rank(), " has ",
              mine.count, " elements, the input ", in.count, ": they must be alike");
  Call call = next_call(Op::AllGather, in.dtype, count_of(outs));
  call.blocks = digest_of_sizes(outs);
  if (DeviceLane* const lane = lane_for(call, options))
    return launch(call, options, *lane, device_all_gather(*lane, call, in, std::move(outs)));
  const Hands hands = hands_for(call, options, DeviceReach::Moves);
  const std::size_t pieces =
      begin_staging(options, bytes_of(outs), [&] { return Staging::Touched{{in}, outs}; });
  return run(call, options, pieces,
             [=, this, outs = std::move(outs)](const Call& call, const Piece& piece) mutable {
               return gather_all(hands, call, piece(in), piece(outs));
             });
}

Task Communicator::gather_all(Hands hands, const Call& call, View in, std::vector<View> outs) {
  if (direct_) return direct_all_gather(board(), call, in, std::move(outs));
  const auto by = [=, this, blocks = in_ring_order(outs, ring_)](Algorithm way) {
    return way == Algorithm::Doubling
               ? doubling_all_gather(hands, ring_, in, blocks, workspace_of(hands))
               : ring_all_gather(hands, ring_, in, blocks);
  };
  return routed(hands, call, bytes_of(outs), by);
}

Communicator::Handle Communicator::all_gather_later(DType dtype, std::function<Gathering()> prepare,
                                                    CallOptions options) {
  const Call call = next_call(Op::AllGather, dtype, 0);
  return start(call, gather_later(call, std::move(prepare)), options);
}

Task Communicator::gather_later(Call call, std::function<Gathering()> prepare) {
  const Gathering now = prepare();
  co_await gather_all(*us_.network, call, now.in, now.outs);
}

Communicator::Handle Communicator::all_to_all(std::vector<View> ins, std::vector<View> outs,
                                              bool uneven, CallOptions options) {
  QUOIT_CHECK(!ins.empty(), UsageError, "all_to_all: got no input; give one block per rank");
  const DType dtype = ins[0].dtype;
  check_views(ins, dtype, "all_to_all input");
  check_views(outs, dtype, "all_to_all output");
  QUOIT_CHECK(
      uneven || (equal_sizes(ins) && equal_sizes(outs) && ins[0].count == outs[0].count),
      UsageError,
      "all_to_all: blocks of different sizes need uneven=True (torch: split sizes) on every rank");
  const std::size_t given = ins[static_cast<std::size_t>(rank())].count;
  const std::size_t taken = outs[static_cast<std::size_t>(rank())].count;
  QUOIT_CHECK(given == taken, UsageError,
              "all_to_all: the block that this rank has for itself has ", given,
              " elements, the output for it ", taken, ": they must be alike");
  // A rank sees only its own blocks, so it cannot tell by itself whether the others' are even.
  Call call = next_call(Op::AllToAll, dtype, uneven ? 0 : ins[0].count);
  if (DeviceLane* const lane = lane_for(call, options))
    return launch(call, options, *lane,
                  device_all_to_all(*lane, call, std::move(ins), std::move(outs), uneven));
  const Hands hands = hands_for(call, options, DeviceReach::Moves);
  const std::size_t pieces = begin_staging(options, uneven ? 0 : bytes_of(ins),
                                           [&] { return Staging::Touched{ins, outs}; });
  auto make = [=, this, ins = std::move(ins), outs = std::move(outs)](const Call& call,
                                                                      const Piece& piece) mutable {
    if (direct_ && !uneven) return direct_all_to_all(board(), call, piece(ins), piece(outs));
    Task task = greeted(call, pairwise_all_to_all(hands, ring_, piece(ins), piece(outs)));
    // Only the two ranks concerned see that sizes differ.
    return uneven ? concluded(call, std::move(task)) : std::move(task);
  };
  return run(call, options, pieces, std::move(make));
}

Communicator::Handle Communicator::gather(View in, std::vector<View> outs, int root,
                                          CallOptions options) {
  check_rank(root, "root");
  if (rank() == root) {
    check_views(outs, in.dtype, "gather output");
    QUOIT_CHECK(equal_sizes(outs) && outs[0].count == in.count, UsageError,
                "gather: every output must have the ", in.count, " elements of the input");
  }
  Call call = next_call(Op::Gather, in.dtype, in.count, root);
  if (DeviceLane* const lane = lane_for(call, options))
    return launch(call, options, *lane, device_gather(*lane, call, in, std::move(outs), root));
  const Hands hands = hands_for(call, options, DeviceReach::Moves);
  const std::size_t pieces = begin_staging(options, in.bytes() * us_.host_of.size(),
                                           [&] { return Staging::Touched{{in}, outs}; });
  auto make = [=, this, outs = std::move(outs)](const Call& call, const Piece& piece) mutable {
    if (direct_) return direct_gather(board(), call, piece(in), piece(outs), root);
    return greeted(call, linear_gather(hands, piece(in), piece(outs), root));
  };
  return run(call, options, pieces, std::move(make));
}

Communicator::Handle Communicator::scatter(std::vector<View> ins, View out, int root,
                                           CallOptions options) {
  check_rank(root, "root");
  if (rank() == root) {
    check_views(ins, out.dtype, "scatter input");
    QUOIT_CHECK(equal_sizes(ins) && ins[0].count == out.count, UsageError,
                "scatter: every input must have the ", out.count, " elements of the output");
  }
  Call call = next_call(Op::Scatter, out.dtype, out.count, root);
  if (DeviceLane* const lane = lane_for(call, options))
    return launch(call, options, *lane, device_scatter(*lane, call, std::move(ins), out, root));
  const Hands hands = hands_for(call, options, DeviceReach::Moves);
  const std::size_t pieces = begin_staging(options, out.bytes() * us_.host_of.size(),
                                           [&] { return Staging::Touched{ins, {out}}; });
  auto make = [=, this, ins = std::move(ins)](const Call& call, const Piece& piece) mutable {
    if (direct_) return direct_scatter(board(), call, piece(ins), piece(out), root);
    return greeted(call, linear_scatter(hands, piece(ins), piece(out), root));
  };
  return run(call, options, pieces, std::move(make));
}

Communicator::Handle Communicator::barrier(CallOptions options) {
  Call call = next_call(Op::Barrier, DType::UInt8, 0);
  if (DeviceLane* const lane = lane_for(call, options))
    return launch(call, options, *lane, device_barrier(*lane, call), /*on_host=*/true);
  const std::size_t pieces = begin_staging(options, 0, [] { return Staging::Touched{}; });
  return run(call, options, pieces,
             [this](const Call& call, const Piece& /*piece*/) { return greeting(call); });
}

Communicator::Handle Communicator::measure(int passes, CallOptions options) {
  // The count makes it differ from an ordinary barrier.
  const Call call = next_call(Op::Barrier, DType::UInt8, static_cast<std::size_t>(passes));
  return start(call, measured(call, passes), options);
}

Communicator::Handle Communicator::send(View data, int to, Tag tag, CallOptions options) {
  check_rank(to, "destination");
  check_tag(tag, "send");
  as_message(options);
  const Call call{data.count, 0, to, Op::Send, data.dtype};
  if (options.device && route(to) == "mpi") {
    if (DeviceHands* const hands = over_network(options, DeviceReach::Moves)) {
      const Handle work = begin(call, options);
      engine_.submit(*this, work,
                     over_.send(*hands, options.device, work, to, tag, data, arrivals_),
                     Engine::Order::AtOnce, options.mode);
      return work;
    }
  }
  if (DeviceEdges* const edges = edges_for(options))
    return start(call, edges->send(options.device, to, tag, data, arrivals_), options,
                 Engine::Order::AtOnce);
  const std::size_t pieces =
      begin_staging(options, 0, [&] { return Staging::Touched{{data}, {}}; });
  return run(
      call, options, pieces,
      [=, this](const Call& /*call*/, const Piece& piece) {
        return send_message(*us_.network, to, tag, piece(data));
      },
      Engine::Order::AtOnce);
}

Communicator::Handle Communicator::recv(View into, int from, Tag tag, CallOptions options) {
  if (from != kAnySource) check_rank(from, "source");
  check_tag(tag, "recv");
  as_message(options);
  const Call call{into.count, 0, from, Op::Recv, into.dtype};
  if (DeviceHands* const hands = over_network(options, DeviceReach::Moves)) {
    const Handle work = begin(call, options);
    engine_.submit(*this, work,
                   over_.receive(*hands, options.device, from, tag, into, *work, arrivals_),
                   Engine::Order::AtOnce, options.mode);
    return work;
  }
  if (DeviceEdges* const edges = edges_for(options)) {
    const Handle work = begin(call, options);
    engine_.submit(*this, work, edges->receive(options.device, from, tag, into, *work, arrivals_),
                   Engine::Order::AtOnce, options.mode);
    return work;
  }
  if (options.mode == Engine::Mode::Now && from != kAnySource && !options.staging)
    return start(call, receive_message(*us_.network, from, tag, into), options,
                 Engine::Order::AtOnce);
  const std::size_t pieces =
      begin_staging(options, 0, [&] { return Staging::Touched{{}, {into}}; });
  const Handle work = begin(call, options);
  const auto make = [=, this, told = work.get()](const Piece& piece) {
    return receive_message(*us_.network, from, tag, piece(into), told);
  };
  engine_.submit(*this, work,
                 pieces > 0 ? in_pieces(options.staging, pieces, arrivals_, make) : make(Piece()),
                 Engine::Order::AtOnce, options.mode);
  return work;
}

}  // namespace quoit
