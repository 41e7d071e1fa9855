#include "collective/communicator.h"

#include <algorithm>

#include "collective/placement.h"
#include "collective/recursive.h"

namespace quoit {
namespace {

constexpr Seconds kGrace{5};  // for collectives in flight when the group is shut down

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

}  // namespace

Communicator::Communicator(Engine& engine, Membership membership)
    : engine_(engine),
      us_(std::move(membership)),
      shape_(shape_of(us_.host_of)),
      direct_(shape_.hosts == 1 && !made_of_messages(us_.algorithm)),
      oversubscribed_(us_.segment->oversubscribed()),
      ring_(ring_by_host(us_.host_of, us_.rank)),
      lanes_(lanes_over(us_.host_of, us_.rank)),
      costs_(us_.costs.value_or(Costs{})),
      costs_settled_(us_.costs || us_.algorithm != Algorithm::Auto) {
  QUOIT_CHECK(
      us_.algorithm != Algorithm::Direct || shape_.hosts == 1, UsageError,
      "algorithm 'direct' needs all ranks on one host; this group spans several: use 'auto'");
  board().use(engine_.arena());
  engine_.join(*this);
}

Communicator::~Communicator() { engine_.leave(*this); }

void Communicator::shut_down() {
  engine_.end(*this, std::min(kGrace, us_.timeout));
  us_.segment->leave();
  us_.network->leave();
}

Communicator::Handle Communicator::all_reduce(View in, View out, Reduction reduction,
                                              CallOptions options) {
  QUOIT_CHECK(in.count == out.count && in.dtype == out.dtype, UsageError, "all_reduce: input is ",
              name_of(in.dtype), "[", in.count, "], output is ", name_of(out.dtype), "[", out.count,
              "]: they must be alike");
  const ReduceStep step = step_of(in.dtype, reduction);
  const Call call = next_call(Op::AllReduce, in.dtype, in.count, -1, reduction.op);
  if (direct_) return start(call, direct_all_reduce(board(), call, in, out, step), options);
  const auto by = [=, this](Algorithm way) {
    if (way == Algorithm::Hierarchy)
      return hierarchical_all_reduce(
          board(), *us_.network, lanes_,
          choose_across(static_cast<double>(in.bytes()), shape_, costs_).algorithm, call, in, out,
          step, workspace_);
    return message_all_reduce(way, *us_.network, ring_, call, in, out, step, workspace_,
                              kGreetingTag);
  };
  return start(call, routed(call, in.bytes(), by), options);
}

Communicator::Handle Communicator::reduce(View in, View out, Reduction reduction, int root,
                                          CallOptions options) {
  check_rank(root, "root");
  QUOIT_CHECK(rank() != root || (in.count == out.count && in.dtype == out.dtype), UsageError,
              "reduce: input is ", name_of(in.dtype), "[", in.count, "], output is ",
              name_of(out.dtype), "[", out.count, "]: they must be alike");
  const ReduceStep step = step_of(in.dtype, reduction);
  const Call call = next_call(Op::Reduce, in.dtype, in.count, root, reduction.op);
  if (direct_) return start(call, direct_reduce(board(), call, in, out, step, root), options);
  const auto by = [=, this](Algorithm way) {
    return way == Algorithm::Tree
               ? tree_reduce(*us_.network, ring_, in, out, step, root, workspace_)
               : ring_reduce(*us_.network, ring_, in, out, step, root, workspace_);
  };
  return start(call, routed(call, in.bytes(), by), options);
}

Communicator::Handle Communicator::broadcast(View data, int root, CallOptions options) {
  check_rank(root, "root");
  const Call call = next_call(Op::Broadcast, data.dtype, data.count, root);
  if (direct_) return start(call, direct_broadcast(board(), call, data, root), options);
  const auto by = [=, this](Algorithm way) {
    return way == Algorithm::Tree ? tree_broadcast(*us_.network, ring_, data, root)
                                  : chain_broadcast(*us_.network, ring_, data, root);
  };
  return start(call, routed(call, data.bytes(), by), options);
}

Communicator::Handle Communicator::reduce_scatter(std::vector<View> in, View out,
                                                  Reduction reduction, CallOptions options) {
  check_views(in, out.dtype, "reduce_scatter input");
  const View& mine = in[static_cast<std::size_t>(rank())];
  QUOIT_CHECK(mine.count == out.count, UsageError, "reduce_scatter: block ", rank(),
              " of the input has ", mine.count, " elements, the output ", out.count,
              ": they must be alike");
  const ReduceStep step = step_of(out.dtype, reduction);
  std::size_t total = 0;
  for (const View& block : in) total += block.count;
  Call call = next_call(Op::ReduceScatter, out.dtype, total, -1, reduction.op);
  call.blocks = digest_of_sizes(in);
  if (direct_)
    return start(call, direct_reduce_scatter(board(), call, std::move(in), out, step), options);
  const auto by = [=, this, blocks = in_ring_order(in, ring_)](Algorithm way) {
    return way == Algorithm::Halving
               ? halving_reduce_scatter(*us_.network, ring_, blocks, out, step, workspace_)
               : ring_reduce_scatter(*us_.network, ring_, blocks, out, step, workspace_);
  };
  return start(call, routed(call, total * size_of(out.dtype), by), options);
}

Communicator::Handle Communicator::all_gather(View in, std::vector<View> outs,
                                              CallOptions options) {
  check_views(outs, in.dtype, "all_gather output");
  const View& mine = outs[static_cast<std::size_t>(rank())];
  QUOIT_CHECK(mine.count == in.count, UsageError, "all_gather: output ", rank(), " has ",
              mine.count, " elements, the input ", in.count, ": they must be alike");
  std::size_t total = 0;
  for (const View& out : outs) total += out.count;
  Call call = next_call(Op::AllGather, in.dtype, total);
  call.blocks = digest_of_sizes(outs);
  return start(call, gather_all(call, in, std::move(outs)), options);
}

Task Communicator::gather_all(Call call, View in, std::vector<View> outs) {
  if (direct_) return direct_all_gather(board(), call, in, std::move(outs));
  std::size_t bytes = 0;
  for (const View& out : outs) bytes += out.bytes();
  const auto by = [=, this, blocks = in_ring_order(outs, ring_)](Algorithm way) {
    return way == Algorithm::Doubling
               ? doubling_all_gather(*us_.network, ring_, in, blocks, workspace_)
               : ring_all_gather(*us_.network, ring_, in, blocks);
  };
  return routed(call, bytes, by);
}

Communicator::Handle Communicator::all_gather_later(DType dtype, std::function<Gathering()> prepare,
                                                    CallOptions options) {
  const Call call = next_call(Op::AllGather, dtype, 0);
  return start(call, gather_later(call, std::move(prepare)), options);
}

Task Communicator::gather_later(Call call, std::function<Gathering()> prepare) {
  const Gathering now = prepare();
  co_await gather_all(call, now.in, now.outs);
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
  const Call call = next_call(Op::AllToAll, dtype, uneven ? 0 : ins[0].count);
  if (direct_ && !uneven)
    return start(call, direct_all_to_all(board(), call, std::move(ins), std::move(outs)), options);
  Task task =
      greeted(call, pairwise_all_to_all(*us_.network, ring_, std::move(ins), std::move(outs)));
  // Only the two ranks concerned see that sizes differ.
  return start(call, uneven ? concluded(call, std::move(task)) : std::move(task), options);
}

Communicator::Handle Communicator::gather(View in, std::vector<View> outs, int root,
                                          CallOptions options) {
  check_rank(root, "root");
  if (rank() == root) {
    check_views(outs, in.dtype, "gather output");
    QUOIT_CHECK(equal_sizes(outs) && outs[0].count == in.count, UsageError,
                "gather: every output must have the ", in.count, " elements of the input");
  }
  const Call call = next_call(Op::Gather, in.dtype, in.count, root);
  if (direct_) return start(call, direct_gather(board(), call, in, std::move(outs), root), options);
  return start(call, greeted(call, linear_gather(*us_.network, in, std::move(outs), root)),
               options);
}

Communicator::Handle Communicator::scatter(std::vector<View> ins, View out, int root,
                                           CallOptions options) {
  check_rank(root, "root");
  if (rank() == root) {
    check_views(ins, out.dtype, "scatter input");
    QUOIT_CHECK(equal_sizes(ins) && ins[0].count == out.count, UsageError,
                "scatter: every input must have the ", out.count, " elements of the output");
  }
  const Call call = next_call(Op::Scatter, out.dtype, out.count, root);
  if (direct_)
    return start(call, direct_scatter(board(), call, std::move(ins), out, root), options);
  return start(call, greeted(call, linear_scatter(*us_.network, std::move(ins), out, root)),
               options);
}

Communicator::Handle Communicator::barrier(CallOptions options) {
  const Call call = next_call(Op::Barrier, DType::UInt8, 0);
  return start(call, greeting(call), options);
}

Communicator::Handle Communicator::measure(int passes, CallOptions options) {
  // The count makes it differ from an ordinary barrier.
  const Call call = next_call(Op::Barrier, DType::UInt8, static_cast<std::size_t>(passes));
  return start(call, measured(call, passes), options);
}

Communicator::Handle Communicator::send(View data, int to, Tag tag, CallOptions options) {
  check_rank(to, "destination");
  check_tag(tag, "send");
  Call call{data.count, 0, to, Op::Send, data.dtype};
  return start(call, send_message(*us_.network, to, tag, data), options, Engine::Order::AtOnce);
}

Communicator::Handle Communicator::recv(View into, int from, Tag tag, CallOptions options) {
  if (from != kAnySource) check_rank(from, "source");
  check_tag(tag, "recv");
  const Call call{into.count, 0, from, Op::Recv, into.dtype};
  if (options.mode == Engine::Mode::Now && from != kAnySource)
    return start(call, receive_message(*us_.network, from, tag, into), options,
                 Engine::Order::AtOnce);
  const Handle work = begin(call, options);
  engine_.submit(*this, work, receive_message(*us_.network, from, tag, into, *work),
                 Engine::Order::AtOnce, options.mode);
  return work;
}

std::optional<std::string> Communicator::failure(bool thorough) {
  if (auto why = us_.segment->fault()) return why;
  if (auto why = us_.network->failure()) return why;
  return thorough ? us_.segment->dead() : std::nullopt;
}

std::optional<std::string> Communicator::departed(int peer) {
  const Board& here = board();
  for (int r = 0; r < here.size(); ++r)
    if (here.name(r) == peer && us_.segment->left(r)) return left_the_group(peer);
  return us_.network->departed(peer);
}

void Communicator::announce_fault(const std::string& why) {
  us_.segment->announce_fault(why);
  us_.network->announce_fault(why);
}

std::string Communicator::where() const {
  return text("rank ", rank(), " on ", us_.host_names[static_cast<std::size_t>(rank())]);
}

Call Communicator::next_call(Op op, DType dtype, std::size_t count, int root, ReduceOp reduce) {
  return {count, ++sequence_, root, op, dtype, reduce};
}

ReduceStep Communicator::step_of(DType dtype, Reduction reduction) const {
  check_reducible(dtype, reduction.op);
  return {reduction.op, reduction.factor,
          reduction.op == ReduceOp::Avg ? static_cast<std::uint64_t>(size()) : 1};
}

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
Task Communicator::routed(Call call, std::size_t bytes, Make make) {
  if (!costs_settled_) co_await measured(call, 1);
  const Algorithm way = way_for(call, bytes);
  // The messages of a doubling between hosts are a greeting themselves.
  if (call.op == Op::AllReduce && way == Algorithm::Doubling && shape_.hosts > 1)
    co_await make(way);
  else
    co_await greeted(call, make(way));
}

Communicator::Handle Communicator::begin(const Call& call, CallOptions& options) const {
  const Seconds timeout = options.timeout > Seconds{0} ? options.timeout : us_.timeout;
  return std::make_shared<Work>(call, Deadline::after(timeout), std::move(options.keep),
                                std::move(options.epilogue));
}

Communicator::Handle Communicator::start(const Call& call, Task task, CallOptions& options,
                                         Engine::Order order) {
  if (options.mode == Engine::Mode::Now && !options.epilogue) {
    Attempt attempt(engine_, *this, std::move(task), order);
    if (attempt.done()) return nullptr;
    const Handle work = begin(call, options);
    attempt.submit(work);
    return work;
  }
  const Handle work = begin(call, options);
  engine_.submit(*this, work, std::move(task), order, options.mode);
  return work;
}

void Communicator::check_rank(int rank, const char* what) const {
  QUOIT_CHECK(rank >= 0 && rank < size(), UsageError, what, " rank ", rank,
              " does not exist: this group has ranks 0 to ", size() - 1);
}

void Communicator::check_tag(Tag tag, const char* what) {
  QUOIT_CHECK(tag >= 0 || tag == kMonitorTag, UsageError, what, ": tag ", tag,
              " is negative; tags are 0 or more");
}

void Communicator::check_views(const std::vector<View>& views, DType dtype,
                               const char* what) const {
  QUOIT_CHECK(views.size() == static_cast<std::size_t>(size()), UsageError, what, ": got ",
              views.size(), " blocks; give one for each of the ", size(), " ranks");
  for (const View& view : views)
    QUOIT_CHECK(view.dtype == dtype, UsageError, what, ": a block is ", name_of(view.dtype),
                ", another ", name_of(dtype), ": use one dtype");
}

}  // namespace quoit
