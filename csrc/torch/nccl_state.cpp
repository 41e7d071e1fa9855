#include "torch/nccl_state.h"

#include <thread>

#include "engine/engine.h"
#include "torch/work.h"

namespace quoit {
namespace {

constexpr Seconds kNcclHearEach{0.5};      // how often a rank that waits asks whether others failed
constexpr Seconds kNcclAnswerWithin{1.2};  // what ranks are given to say where they are
constexpr Seconds kNcclLookEach{0.1};
constexpr Seconds kNcclConnectEach{0.002};

// A device that has failed does not even say that.
bool done_before_failure(NcclCall& call) {
  try {
    return call.done();
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace

std::string NcclCall::said() const {
  std::string words = text(title_of(type) + sizeof("quoit:") - 1, " #", sequence);
  if (peer >= 0)
    words += (type == c10d::OpType::SEND ? " to rank " : " from rank ") + std::to_string(peer);
  if (count >= 0) words += text(" ", c10::toString(dtype), "[", count, "]");
  return words;
}

bool NcclCall::done() {
  if (over) return true;
  if (!issued || captured || failed || !end.query()) return false;
  return over = true;
}

NcclState::NcclState(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                     std::string where)
    : rank(rank),
      size(size),
      where(std::move(where)),
      store(KeyStore(store).of_next_group("quoit/nccl", size)) {}

void NcclState::check() const {
  if (!failed_) return;
  const std::scoped_lock lock(mutex_);
  std::rethrow_exception(error_);
}

void NcclState::check(NcclCall& call) const {
  if (call.failed || (failed_ && !call.done())) check();
}

void NcclState::fail(const std::exception_ptr& error) {
  const std::scoped_lock lock(mutex_);
  if (failed_) return;
  error_ = error;
  failed_ = true;
  changed_.notify_all();
}

void NcclState::fail_in_call() {
  const std::exception_ptr error = std::current_exception();
  try {
    if (!failed_) heed_failed();
  } catch (const Error&) {
    fail(heard_ ? std::current_exception() : error);
  }
  fail(error);
  end_failed();  // now: the process may be about to end
  const std::scoped_lock lock(mutex_);
  std::rethrow_exception(error_);
}

// Throws what another rank has told of.
void NcclState::heed_failed() {
  if (!store.has("failed")) return;
  const std::string why = store.get("failed");
  heard_ = true;
  throw TransportError(text("the group failed, first on ", why));
}

void NcclState::watch(const std::shared_ptr<NcclCall>& call) {
  const std::scoped_lock lock(mutex_);
  calls_.push_back(call);
}

void NcclState::add(const std::shared_ptr<NcclCommunicator>& communicator) {
  const std::scoped_lock lock(mutex_);
  communicators_.push_back(communicator);
}

void NcclState::note_issued(NcclCall& call) {
  const std::scoped_lock lock(mutex_);
  call.issued = true;
  changed_.notify_all();
}

void NcclState::await_issued(NcclCall& call, Deadline deadline) {
  while (!call.issued) {
    check(call);
    QUOIT_CHECK(!closed_, TransportError, call.said(),
                " was not begun when the process group was shut down: wait for it before");
    QUOIT_CHECK(!deadline.passed(), TimeoutError, call.said(),
                " was not begun when wait() was over: the other rank has not called its part");
    Engine::process().heed_interrupt();
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kNcclLookEach, [&] { return call.issued || failed_; });
  }
}

// Looks often at first: most calls that a host waits for are barriers.
void NcclState::await_done(NcclCall& call, Deadline deadline) {
  await_issued(call, deadline);
  const Clock::time_point began = Clock::now();
  while (!call.done()) {
    check(call);
    QUOIT_CHECK(!deadline.passed(), TimeoutError, call.said(),
                " was not over when wait() was: it goes on until its own timeout");
    const Seconds waited = Clock::now() - began;
    if (waited < Seconds(1e-4)) {
      std::this_thread::yield();
      continue;
    }
    Engine::process().heed_interrupt();
    std::this_thread::sleep_for(std::min(waited / 8, Seconds(0.005)));
  }
}

Seconds NcclState::look() {
  bool waiting = false;
  try {
    if (closed_) return kNcclLookEach;
    if (!failed_) {
      if (const std::unique_lock lock(order, std::try_to_lock); lock && !closed_) {
        waiting = advance();
        look_at_communicators();
      }
      look_at_calls();
      hear();
    }
  } catch (...) {
    fail(std::current_exception());
  }
  if (failed_) end_failed();
  return waiting ? kNcclConnectEach : kNcclLookEach;
}

void NcclState::look_at_calls() {
  std::list<std::shared_ptr<NcclCall>> over;  // freed outside the lock
  std::shared_ptr<NcclCall> late;
  {
    const std::scoped_lock lock(mutex_);
    for (auto call = calls_.begin(); call != calls_.end();) {
      const auto here = call++;
      if ((*here)->done())
        over.splice(over.end(), calls_, here);
      else if (!late && (*here)->deadline.passed())
        late = *here;
    }
  }
  if (late) raise_alarm(*late);
}

// A collective is late, and perhaps on all ranks: asks where they are before it fails.
void NcclState::raise_alarm(const NcclCall& call) {
  QUOIT_CHECK(call.peer < 0, TimeoutError, call.said(), " over NCCL was not over after ",
              call.timeout.count(), " s: rank ", call.peer,
              " has not called its part, or a device or a link hangs");
  if (!alarm_) {
    alarm_ = Clock::now();
    store.set(text("at/", rank), std::to_string(called));
    store.set("alarm", call.said());
    answered_ = true;
  }
  if (Clock::now() - *alarm_ < kNcclAnswerWithin) return;
  throw TimeoutError(text(call.said(), " over NCCL was not over after ", call.timeout.count(),
                          " s: ", missing(call.sequence)));
}

std::string NcclState::missing(std::uint64_t sequence) {
  std::string behind;
  std::string silent;
  for (int other = 0; other < size; ++other) {
    const std::string key = text("at/", other);
    if (!store.has(key))
      silent += text(silent.empty() ? "" : ", ", other);
    else if (const std::string at = store.get(key); std::stoull(at) < sequence)
      behind += text(behind.empty() ? "" : ", ", other, " (at #", at, ")");
  }
  if (!behind.empty()) return text("these ranks have not called it: ", behind);
  if (!silent.empty()) return text("these ranks are in no call of this group, or gone: ", silent);
  return "all ranks have called it, so a device or a link hangs, or they called different things";
}

void NcclState::look_at_communicators() {
  std::vector<std::shared_ptr<NcclCommunicator>> all;
  {
    const std::scoped_lock lock(mutex_);
    all = communicators_;
  }
  for (const auto& communicator : all) {
    try {
      communicator->settled();
    } catch (const Error& error) {
      next_hear_ = {};
      hear();  // the first cause, if a rank has told of it
      throw TransportError(
          text(error.what(), ". Another rank has failed or left, or a link is down"));
    }
  }
}

// Only ranks that wait for something ask: an idle group costs the store nothing.
void NcclState::hear() {
  {
    const std::scoped_lock lock(mutex_);
    if (calls_.empty() || Clock::now() < next_hear_) return;
  }
  next_hear_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(kNcclHearEach);
  try {
    if (!answered_ && store.has("alarm")) {
      store.set(text("at/", rank), std::to_string(called));
      answered_ = true;
    }
    heed_failed();
  } catch (const TransportError&) {
    if (heard_) throw;
    next_hear_ = Clock::time_point::max();  // the store is gone; NCCL, or a timeout, will tell
  }
}

void NcclState::end_failed() {
  if (told_.exchange(true)) return;
  std::exception_ptr error;
  std::vector<std::shared_ptr<NcclCommunicator>> all;
  {
    const std::scoped_lock lock(mutex_);
    for (const auto& call : calls_) call->failed = !done_before_failure(*call);
    calls_.clear();
    all.swap(communicators_);
    error = error_;
    changed_.notify_all();
  }
  try {
    if (!heard_ && !store.has("failed")) store.set("failed", text(where, ": ", words_of(error)));
  } catch (const Error&) {  // nobody to tell
  }
  const std::scoped_lock lock(order);
  for (const auto& communicator : all) communicator->abort();
  drop();
}

void NcclState::close(Deadline deadline) {
  if (failed_) end_failed();
  const std::scoped_lock calls(order);
  std::vector<std::shared_ptr<NcclCommunicator>> all;
  {
    const std::scoped_lock lock(mutex_);
    closed_ = true;
    all.swap(communicators_);
    changed_.notify_all();
  }
  for (const auto& communicator : all) communicator->begin_to_end();
  for (const auto& communicator : all) communicator->end(deadline);
  drop();
}

}  // namespace quoit
