#include "collective/communicator.h"

#include <algorithm>
#include <map>
#include <numeric>

namespace quoit {
namespace {

constexpr Seconds kGrace{5};  // for collectives in flight when the group is shut down

// Below this a tree's fewer steps win over a chain's fewer bytes.
constexpr std::size_t kTree = 64 * 1024;

Ring ring_by_host(const Membership& us) {
  Ring ring;
  ring.ranks.resize(us.host_of.size());
  std::iota(ring.ranks.begin(), ring.ranks.end(), 0);
  std::stable_sort(ring.ranks.begin(), ring.ranks.end(), [&](int a, int b) {
    return us.host_of[static_cast<std::size_t>(a)] < us.host_of[static_cast<std::size_t>(b)];
  });
  ring.position = static_cast<int>(std::find(ring.ranks.begin(), ring.ranks.end(), us.rank) -
                                   ring.ranks.begin());
  return ring;
}

Lanes lanes_over(const Membership& us) {
  std::map<int, std::vector<int>> hosts;
  for (std::size_t rank = 0; rank < us.host_of.size(); ++rank)
    hosts[us.host_of[rank]].push_back(static_cast<int>(rank));
  const std::vector<int>& here = hosts[us.host_of[static_cast<std::size_t>(us.rank)]];
  const auto local =
      static_cast<std::size_t>(std::find(here.begin(), here.end(), us.rank) - here.begin());

  Lanes lanes;
  lanes.count = static_cast<int>(us.host_of.size());
  for (const auto& [host, ranks] : hosts)
    lanes.count = std::min(lanes.count, static_cast<int>(ranks.size()));
  lanes.member = static_cast<int>(local) < lanes.count;
  if (!lanes.member) return lanes;
  for (const auto& [host, ranks] : hosts) lanes.ring.ranks.push_back(ranks[local]);
  lanes.ring.position =
      static_cast<int>(std::find(lanes.ring.ranks.begin(), lanes.ring.ranks.end(), us.rank) -
                       lanes.ring.ranks.begin());
  return lanes;
}

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

Algorithm algorithm_named(const std::string& name) {
  if (name == "auto") return Algorithm::Auto;
  if (name == "direct") return Algorithm::Direct;
  if (name == "ring") return Algorithm::Ring;
  if (name == "hierarchy") return Algorithm::Hierarchy;
  throw UsageError(
      text("algorithm '", name, "' is not known: choose auto, direct, ring or hierarchy"));
}

Communicator::Communicator(Engine& engine, Membership membership)
    : engine_(engine),
      us_(std::move(membership)),
      one_host_(us_.segment->board().size() == size()),
      direct_(one_host_ && us_.algorithm != Algorithm::Ring),
      oversubscribed_(us_.segment->oversubscribed()),
      ring_(ring_by_host(us_)),
      lanes_(lanes_over(us_)),
      hierarchy_(!one_host_ && (us_.algorithm == Algorithm::Hierarchy ||
                                (us_.algorithm == Algorithm::Auto && lanes_.count > 1))) {
  QUOIT_CHECK(
      us_.algorithm != Algorithm::Direct || one_host_, UsageError,
      "algorithm 'direct' needs all ranks on one host; this group spans several: use 'auto'");
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
  Task task = hierarchy_ ? hierarchical_all_reduce(board(), *us_.network, lanes_, call, in, out,
                                                   step, workspace_)
                         : ring_all_reduce(*us_.network, ring_, in, out, step, workspace_);
  return start(call, greeted(call, std::move(task)), options);
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
  return start(call,
               greeted(call, ring_reduce(*us_.network, ring_, in, out, step, root, workspace_)),
               options);
}

Communicator::Handle Communicator::broadcast(View data, int root, CallOptions options) {
  check_rank(root, "root");
  const Call call = next_call(Op::Broadcast, data.dtype, data.count, root);
  if (direct_) return start(call, direct_broadcast(board(), call, data, root), options);
  Task task = data.bytes() < kTree ? tree_broadcast(*us_.network, ring_, data, root)
                                   : chain_broadcast(*us_.network, ring_, data, root);
  return start(call, greeted(call, std::move(task)), options);
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
  return start(call,
               greeted(call, ring_reduce_scatter(*us_.network, ring_, in_ring_order(in, ring_), out,
                                                 step, workspace_)),
               options);
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
  if (direct_) return start(call, direct_all_gather(board(), call, in, std::move(outs)), options);
  return start(call,
               greeted(call, ring_all_gather(*us_.network, ring_, in, in_ring_order(outs, ring_))),
               options);
}

Communicator::Handle Communicator::all_gather_later(DType dtype, std::function<Gathering()> prepare,
                                                    CallOptions options) {
  const Call call = next_call(Op::AllGather, dtype, 0);
  return start(call, gather_later(call, std::move(prepare)), options);
}

Task Communicator::gather_later(Call call, std::function<Gathering()> prepare) {
  const Gathering now = prepare();
  Task task = direct_ ? direct_all_gather(board(), call, now.in, now.outs)
                      : greeted(call, ring_all_gather(*us_.network, ring_, now.in,
                                                      in_ring_order(now.outs, ring_)));
  co_await std::move(task);
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
  return start(
      call,
      greeted(call, pairwise_all_to_all(*us_.network, ring_, std::move(ins), std::move(outs))),
      options);
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
  if (direct_) return start(call, direct_barrier(board(), call), options);
  return start(call, greeted(call, dissemination_barrier(*us_.network, ring_)), options);
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
    if (here.name(r) == peer && us_.segment->left(r))
      return text("rank ", peer,
                  " left the group: it destroyed its process group, or its program ended");
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

// Ranks compare calls before they exchange messages. Those that share one host do it on the board,
// where a direct collective would look, so that ranks which go different ways find out as well.
Task Communicator::greeted(Call call, Task then) {
  if (one_host_)
    co_await direct_barrier(board(), call);
  else
    co_await greet(*us_.network, ring_, call);
  co_await std::move(then);
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
