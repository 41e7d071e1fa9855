// What a driver does in one go: move bytes, step coroutines, end what is done, fail what cannot go
// on.
#include <utility>

#include "engine/engine.h"

namespace quoit {
namespace {

std::string prefix_of(const Group& group, const Call& call) {
  return text("[quoit ", group.where(), "] ", describe(call), ": ");
}

}  // namespace

bool Engine::sweep() {
  bool moved = false;
  for (std::size_t i = 0; i < groups_.size(); ++i)
    if (groups_[i]->busy()) moved |= advance(*groups_[i]);
  return moved;
}

bool Engine::advance(Group& group) {
  const bool moved = step(group);
  group.ring_peers();
  return moved;
}

bool Engine::step(Group& group) {
  bool moved = group.progress();
  while (!group.ordered_.empty()) {
    Job& job = group.ordered_.front();
    moved |= job.flow.step();
    if (!job.flow.done()) break;
    if (auto error = job.flow.error()) {
      fail_first(group, prefixed(prefix_of(group, job.work->call()), error));
      return true;
    }
    finish(job, nullptr);
    group.ordered_.pop_front();
  }
  for (auto job = group.free_.begin(); job != group.free_.end();) {
    moved |= job->flow.step();
    if (!job->flow.done()) {
      ++job;
      continue;
    }
    auto error = job->flow.error();
    finish(*job, error ? prefixed(prefix_of(group, job->work->call()), error) : nullptr);
    job = group.free_.erase(job);
  }
  return moved;
}

void Engine::finish(Job& job, std::exception_ptr error) {
  if (!error) {
    try {
      job.work->run_epilogue();
    } catch (...) {
      error = std::current_exception();
    }
  }
  in_flight_.fetch_sub(1);
  for (auto& then : job.work->finish(std::move(error))) callbacks_.run(std::move(then));
  finished_.push_back(job.work);
  if (bystanders_.load() > 0) completed_.notify_all();
}

// Ends a job in failure; keeps it, with its memory, if its transfers cannot be cancelled.
void Engine::fail_job(Group& group, std::list<Job>& jobs, std::list<Job>::iterator job,
                      std::exception_ptr error) {
  finish(*job, std::move(error));
  if (group.cancels())
    jobs.erase(job);
  else
    group.failed_.splice(group.failed_.end(), jobs, job);
}

// A collective failed here: the others cannot complete it either.
void Engine::fail_first(Group& group, std::exception_ptr error) {
  const std::string why = message_of(error);
  fail_job(group, group.ordered_, group.ordered_.begin(), std::move(error));
  fail(group, why);
}

void Engine::fail(Group& group, const std::string& why, const std::string& told) {
  group.broken_ = why;
  group.announce_fault(told);
  const auto error = std::make_exception_ptr(TransportError(why));
  for (auto* jobs : {&group.ordered_, &group.free_})
    while (!jobs->empty()) fail_job(group, *jobs, jobs->begin(), error);
}

// Why a job waits in vain: a rank from which it needs something left.
std::optional<std::string> Engine::departed(Group& group, const Job& job) {
  for (int peer = 0; peer < group.size(); ++peer) {
    if (!job.flow.awaits(peer)) continue;
    auto why = group.departed(peer);
    if (!why) continue;
    // Whoever failed says so before it leaves: perhaps since we last asked.
    const auto fault = group.failure(false);
    return fault ? fault : why;
  }
  return std::nullopt;
}

// Looks after deadlines, faults that peers announced, and (`thorough`) peers that died or left.
void Engine::patrol(bool thorough) {
  const auto late = [](const Group& group, const Job& job) {
    return std::make_exception_ptr(TimeoutError(
        text(prefix_of(group, job.work->call()), "timed out waiting for ", job.flow.awaited(),
             ". Is that rank still running, and does it make the same call? If it is only slow, "
             "raise the timeout (init_process_group(timeout=...) or QUOIT_TIMEOUT_S)")));
  };
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    Group& group = *groups_[i];
    if (!group.busy()) continue;
    auto why = group.failure(thorough);
    if (!why && thorough && !group.ordered_.empty()) why = departed(group, group.ordered_.front());
    // What peers sent before the failure still counts.
    if (why && advance(group)) continue;
    if (why) {
      const Job& job = group.ordered_.empty() ? group.free_.front() : group.ordered_.front();
      fail(group, prefix_of(group, job.work->call()) + *why, *why);
      continue;
    }
    if (!group.ordered_.empty() && group.ordered_.front().work->deadline().passed()) {
      fail_first(group, late(group, group.ordered_.front()));
      continue;
    }
    // A point-to-point failure is nobody else's.
    for (auto next = group.free_.begin(); next != group.free_.end();) {
      const auto job = next++;
      const Call& call = job->work->call();
      if (job->work->deadline().passed()) {
        fail_job(group, group.free_, job, late(group, *job));
      } else if (thorough) {
        const auto gone = departed(group, *job);
        if (!gone) continue;
        // It may have sent the message before it left.
        if (advance(group)) break;
        fail_job(group, group.free_, job,
                 std::make_exception_ptr(TransportError(prefix_of(group, call) + *gone)));
      }
    }
  }
}

}  // namespace quoit
