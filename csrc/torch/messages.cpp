// Point-to-point, and the barrier that says who did not come.
#include <cstring>
#include <map>

#include "torch/process_group.h"

namespace quoit {
namespace {

// How much longer than its own timeout a rank waits to hear from rank 0 who is missing: rank 0
// knows only when the same time is up.
constexpr Seconds kVerdictGrace{1.0};

// What goes between rank 0 and the others in a monitored barrier.
struct Notice {
  std::uint64_t number = 0;  // of the barrier: a rank may come to one that the others gave up
  bool failed = false;
  std::array<char, 1008> why{};  // ends in 0

  [[nodiscard]] View view() {
    return {reinterpret_cast<std::byte*>(this), sizeof(Notice), DType::UInt8};
  }
};

// "Rank 1" or "Ranks 1, 2": gloo's words, which people search their logs for.
std::string listed(const std::vector<int>& ranks) {
  std::string said = ranks.size() == 1 ? "Rank " : "Ranks ";
  for (const int rank : ranks) said += text(rank == ranks.front() ? "" : ", ", rank);
  return said;
}

}  // namespace

ProcessGroupQuoit::Handle ProcessGroupQuoit::send(Tensors& tensors, int to, int tag) {
  return translated([&] {
    if (auto* nccl = nccl_for(tensors, to)) return nccl->send(tensors, to, tag);
    Operands operands;
    const View data = operands.input(only(tensors, "send"), "send: tensor");
    auto work =
        start(operands, kNoTimeout, Engine::Mode::Either,
              [&](Communicator& c, CallOptions o) { return c.send(data, to, tag, std::move(o)); });
    return hand_out(std::move(work), c10d::OpType::SEND, Tensors{}, tensors);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::recv(Tensors& tensors, int from, int tag) {
  return translated([&] {
    if (auto* nccl = nccl_for(tensors, from))
      return from == kAnySource ? nccl->recvAnysource(tensors, tag)
                                : nccl->recv(tensors, from, tag);
    Operands operands;
    const View data = operands.output(only(tensors, "recv"), "recv: tensor");
    auto work = start(
        operands, kNoTimeout, Engine::Mode::Either,
        [&](Communicator& c, CallOptions o) { return c.recv(data, from, tag, std::move(o)); });
    return hand_out(std::move(work),
                    from == kAnySource ? c10d::OpType::RECVANYSOURCE : c10d::OpType::RECV, tensors,
                    tensors);
  });
}

ProcessGroupQuoit::Handle ProcessGroupQuoit::recvAnysource(Tensors& tensors, int tag) {
  return recv(tensors, kAnySource, tag);
}

// Rank 0 hears from everybody and tells everybody. These are messages, not a collective: ranks that
// do not come leave the group as usable as it was.
void ProcessGroupQuoit::monitoredBarrier(const c10d::BarrierOptions& opts, bool wait_all_ranks) {
  translated([&] {
    const std::chrono::milliseconds timeout =
        opts.timeout.count() >= 0 ? opts.timeout : timeout_.load();
    const std::uint64_t number = ++monitored_;
    if (rank_ == 0)
      monitor(number, timeout, wait_all_ranks);
    else
      report(number, timeout);
  });
}

void ProcessGroupQuoit::monitor(std::uint64_t number, std::chrono::milliseconds timeout,
                                bool wait_all_ranks) {
  Communicator& group = communicator();
  QUOIT_CHECK(timeout.count() > 0, TimeoutError, "[quoit ", group.where(),
              "] Rank 0 timed out in "
              "monitoredBarrier: a timeout of 0 ms leaves no time to hear from anybody");
  const Deadline deadline = Deadline::after(timeout);
  const auto receive = [&](int rank, const std::shared_ptr<Notice>& into) {
    const Seconds left = std::max(deadline.left(), Seconds(1e-3));
    return group.recv(into->view(), rank, kMonitorTag, {.timeout = left, .keep = into});
  };
  std::map<int, std::pair<std::shared_ptr<Notice>, Communicator::Handle>> awaited;
  for (int rank = 1; rank < size_; ++rank) {
    const auto notice = std::make_shared<Notice>();
    awaited[rank] = {notice, receive(rank, notice)};
  }
  std::vector<int> missing;
  std::string why;
  for (auto& [rank, arrival] : awaited) {
    auto& [notice, work] = arrival;
    try {
      group.engine().wait(*work);
      for (; notice->number < number; group.engine().wait(*work)) work = receive(rank, notice);
    } catch (const UsageError&) {
      throw;
    } catch (const TimeoutError&) {
      missing.push_back(rank);
    } catch (const Error& error) {  // it left, or the whole group failed: see below
      missing.push_back(rank);
      why += text(" (", error.what(), ")");
    }
    if (!missing.empty() && !wait_all_ranks) break;
  }

  const auto verdict = std::make_shared<Notice>();
  verdict->number = number;
  if (!missing.empty()) {
    const std::string said =
        text(listed(missing), " failed to pass monitoredBarrier in ", timeout.count(), " ms", why);
    verdict->failed = true;
    std::memcpy(verdict->why.data(), said.data(), std::min(said.size(), verdict->why.size() - 1));
  }
  // Also for those who are missing, should they come. Throws the reason if the group has failed.
  std::vector<Communicator::Handle> told;
  for (int rank = 1; rank < size_; ++rank)
    told.push_back(group.send(
        verdict->view(), rank, kMonitorTag,
        {.timeout = timeout + kVerdictGrace, .mode = Engine::Mode::Background, .keep = verdict}));
  QUOIT_CHECK(!verdict->failed, TimeoutError, "[quoit ", group.where(), "] ", verdict->why.data());
  for (const auto& work : told) group.engine().wait(*work);
}

void ProcessGroupQuoit::report(std::uint64_t number, std::chrono::milliseconds timeout) {
  Communicator& group = communicator();
  const auto mine = std::make_shared<Notice>();
  const auto verdict = std::make_shared<Notice>();
  mine->number = number;
  const CallOptions options{.timeout = timeout + kVerdictGrace};
  std::string why;
  try {
    CallOptions sending = options;
    sending.keep = mine;
    group.engine().wait(*group.send(mine->view(), 0, kMonitorTag, std::move(sending)));
    while (verdict->number < number) {
      CallOptions receiving = options;
      receiving.keep = verdict;
      group.engine().wait(*group.recv(verdict->view(), 0, kMonitorTag, std::move(receiving)));
    }
    if (!verdict->failed) return;
    why = verdict->why.data();
  } catch (const UsageError&) {
    throw;
  } catch (const Error& error) {
    why = error.what();
  }
  throw TimeoutError(text("[quoit ", group.where(), "] Rank ", rank_,
                          " successfully reached monitoredBarrier, but received errors while "
                          "waiting for send/recv from rank 0. Please check rank 0 logs for faulty "
                          "rank. (",
                          why, ")"));
}

}  // namespace quoit
