#include "collective/communicator.h"

#include <algorithm>

#include "collective/placement.h"

namespace quoit {
namespace {

constexpr Seconds kGrace{5};  // for collectives in flight when the group is shut down

}  // namespace

Communicator::Communicator(Engine& engine, Membership membership)
    : engine_(engine),
      us_(std::move(membership)),
      shape_(shape_of(us_.host_of)),
      direct_(shape_.hosts == 1 && !made_of_messages(us_.algorithm)),
      ring_(ring_by_host(us_.host_of, us_.rank)),
      lanes_(lanes_over(us_.host_of, us_.rank)),
      costs_(us_.costs.value_or(Costs{})),
      costs_settled_(us_.costs || us_.algorithm != Algorithm::Auto),
      devices_(*us_.segment, *us_.network, size(), where()),
      over_(*us_.network, us_.reach, where()) {
  QUOIT_CHECK(
      us_.algorithm != Algorithm::Direct || shape_.hosts == 1, UsageError,
      "algorithm 'direct' needs all ranks on one host; this group spans several: use 'auto'");
  board().use(engine_.arena());
  static_cast<void>(us_.segment->peers().usable());  // tells the others what this rank can read
  engine_.join(*this);
}

Communicator::~Communicator() { engine_.leave(*this); }

void Communicator::shut_down() {
  engine_.end(*this, std::min(kGrace, us_.timeout));
  devices_.leave();
  us_.segment->leave();
  us_.network->leave();
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

Communicator::Handle Communicator::begin(const Call& call, CallOptions& options) const {
  const Seconds timeout = options.timeout > Seconds{0} ? options.timeout : us_.timeout;
  auto work = std::make_shared<Work>(call, Deadline::after(timeout), std::move(options.keep),
                                     std::move(options.epilogue));
  if (options.staging)
    work->set_join([staging = options.staging] { staging->join(); });
  else if (options.device)
    work->set_join([device = options.device] { device->join(); });
  return work;
}

Communicator::Handle Communicator::start(const Call& call, Task task, CallOptions& options,
                                         Engine::Order order) {
  // A call that waits for an accelerator is not over in a moment.
  if (options.mode == Engine::Mode::Now && !options.epilogue && !options.staging) {
    Attempt attempt(engine_, *this, std::move(task), order);
    if (attempt.done()) {
      if (options.device) options.device->join();
      return nullptr;
    }
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
