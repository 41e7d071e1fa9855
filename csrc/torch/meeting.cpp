#include "torch/meeting.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

#include "core/host.h"
#include "engine/engine.h"
#include "torch/key_store.h"

namespace quoit {
namespace {

// A rank that waits looks at the others that wait: soon, then every few seconds, at some of them
// each time, for there may be thousands.
constexpr Seconds kSoonest{0.5}, kLatest{4.0};
constexpr int kLooks = 16;
constexpr Seconds kEarlier{5.0};  // then it says that its rank seems to be taken
constexpr auto kGone = "gone";    // instead of a claim
constexpr auto kWaiting = "quoit/waiting";

// What a rank says of the group that it joins. One line of text per field.
struct Claim {
  int rank = 0;
  int size = 0;
  int pid = 0;
  std::string host;
  std::string members;

  [[nodiscard]] std::string written() const {
    return text(rank, "\n", size, "\n", pid, "\n", host, "\n", members, "\n");
  }

  static Claim read(std::istream& lines) {
    Claim claim;
    lines >> claim.rank >> claim.size >> claim.pid;
    lines.ignore();
    QUOIT_CHECK(
        std::getline(lines, claim.host) && std::getline(lines, claim.members), TransportError,
        "the store that the ranks meet in holds something else than what "
        "ranks wrote: do all run the same version of quoit, and is the store theirs alone?");
    return claim;
  }

  [[nodiscard]] std::string process() const { return text("process ", pid, " on ", host); }
  [[nodiscard]] std::string place() const {
    return text("rank ", rank, " of ", size,
                members.empty() ? "" : text(" (ranks ", members, " of the job)"));
  }
};

// Why these two cannot be in one group, or nothing.
std::string conflict(const Claim& a, const Claim& b) {
  const bool same_process = a.pid == b.pid && a.host == b.host;
  if (a.size != b.size || a.members != b.members)
    return text("ranks disagree about the process group: ", a.process(), " joins it as ", a.place(),
                ", ", b.process(), " as ", b.place(),
                ". All ranks must be given the same world size, and make the same groups of the "
                "same ranks in the same order");
  if (a.rank == b.rank && !same_process)
    return text("two processes join the process group as ", a.place(), ": ", a.process(), " and ",
                b.process(), ". Each must be given a rank of its own");
  return {};
}

class Meeting {
 public:
  Meeting(c10::intrusive_ptr<c10d::Store> store, Claim claim, Seconds timeout)
      : me_(std::move(claim)),
        who_(text("[quoit rank ", me_.rank, " on ", me_.host, "] ")),
        keys_(std::move(store), who_),
        timeout_(timeout) {
    // A store may outlive a group and serve the next one of the same name, so groups of one size
    // are counted, by their members' arrivals.
    arrival_ = keys_.add(under(me_.size) + "arrivals", 1);
    number_ = (arrival_ - 1) / me_.size;
  }

  // One string from each rank.
  std::vector<std::string> round(const std::string& mine) {
    keys_.set(key(me_.rank), me_.written() + mine);
    began_ = Clock::now();
    next_look_ = kSoonest;
    std::vector<std::string> all;
    for (int rank = 0; rank < me_.size; ++rank) {
      await(rank);
      std::istringstream said(keys_.get(key(rank)));
      const Claim claim = Claim::read(said);
      if (const std::string why = conflict(me_, claim); !why.empty()) disagree(why, claim.size);
      all.emplace_back(std::istreambuf_iterator<char>(said), std::istreambuf_iterator<char>());
    }
    leave();
    ++round_;
    return all;
  }

  // No more claims: who waits later must not find one.
  void leave() noexcept {
    if (slot_ == 0) return;
    try {
      keys_.set(text(kWaiting, "/", slot_), kGone);
    } catch (const Error&) {  // the store is gone, and the claim with it
    }
    slot_ = 0;
  }

 private:
  void await(int rank) {
    // Long enough for a store that serves a thousand ranks.
    const Seconds longest = std::max(Seconds(0.01), Seconds(5e-5) * me_.size);
    while (!keys_.has(key(rank))) {
      const Seconds waited = Clock::now() - began_;
      if (waited >= timeout_) give_up(rank);
      if (waited >= next_look_) look(waited);
      Engine::process().heed_interrupt();
      std::this_thread::sleep_for(
          std::min({std::max(waited / 4, Seconds(1e-4)), longest, timeout_ - waited}));
    }
  }

  // Says that this rank waits, and for what; looks whether another one waits that says otherwise.
  // An earlier claim counts when it was renewed since the last look: its process may have died.
  void look(Seconds waited) {
    next_look_ = waited + std::clamp(waited / 2, kSoonest, kLatest);
    if (slot_ == 0) slot_ = keys_.add(kWaiting, 1);
    keys_.set(text(kWaiting, "/", slot_), text(me_.written(), ++beat_));
    if (const auto [stamp, why] = disagreement(); stamp >= arrival_) throw UsageError(who_ + why);
    if (waited >= kEarlier && !std::exchange(warned_, true))
      if (const std::string hint = taken(); !hint.empty())
        TORCH_WARN(who_, "still waiting to join the process group. ", hint);
    const std::int64_t others = keys_.add(kWaiting, 0);
    for (std::int64_t i = 0; i < std::min<std::int64_t>(others, kLooks); ++i) {
      next_ = next_ % others + 1;
      const std::string name = text(kWaiting, "/", next_);
      if (next_ == slot_ || !keys_.has(name)) continue;
      const std::string said = keys_.get(name);
      if (said == kGone) continue;
      std::istringstream lines(said);
      const Claim claim = Claim::read(lines);
      const auto [before, first] = seen_.try_emplace(next_, said);
      const std::string why = conflict(me_, claim);
      const bool alive = next_ > slot_ || (!first && before->second != said);
      if (!why.empty() && alive) disagree(why, claim.size);
      before->second = said;
    }
  }

  // Fails, and lets everybody know who is waiting, too.
  [[noreturn]] void disagree(const std::string& why, int other_size) {
    for (const int size : std::set<int>{me_.size, other_size})
      keys_.set(under(size) + "disagreement",
                text(keys_.add(under(size) + "arrivals", 0), "\n", why));
    throw UsageError(who_ + why);
  }

  // What others found, and how many ranks had arrived by then.
  std::pair<std::int64_t, std::string> disagreement() {
    const std::string name = under(me_.size) + "disagreement";
    if (!keys_.has(name)) return {0, ""};
    const std::string said = keys_.get(name);
    return {std::atoll(said.c_str()), said.substr(said.find('\n') + 1)};
  }

  // Whether the place seems to be another process's, in the group that met before.
  std::string taken() {
    if (number_ == 0 || round_ > 0) return {};
    const std::string name = text(under(me_.size), number_ - 1, "/0/", me_.rank);
    if (!keys_.has(name)) return {};
    std::istringstream said(keys_.get(name));
    const Claim claim = Claim::read(said);
    if (claim.pid == me_.pid && claim.host == me_.host) return {};
    return text("A group has already met in this store, in which ", claim.process(), " was ",
                claim.place(),
                ": is this process a second one with that rank, or do ranks make other "
                "groups?");
  }

  [[noreturn]] void give_up(int rank) {
    const auto [stamp, why] = disagreement();
    const std::string hint = taken();
    throw TimeoutError(text(who_, "waited ", timeout_.count(), " s for rank ", rank, " of ",
                            me_.size,
                            " to join the process group: was it started, and did it get as far as "
                            "init_process_group or new_group?",
                            why.empty() ? "" : " Ranks that came before found: " + why + ".",
                            hint.empty() ? "" : " " + hint));
  }

  // Where ranks write that say this size.
  static std::string under(int size) { return text("quoit/of ", size, "/"); }
  [[nodiscard]] std::string key(int rank) const {
    return text(under(me_.size), number_, "/", round_, "/", rank);
  }

  const Claim me_;
  const std::string who_;
  KeyStore keys_;
  const Seconds timeout_;
  std::int64_t arrival_ = 0;  // among all that ever said this size, from 1
  std::int64_t number_ = 0;   // of the group, among those of this size
  int round_ = 0;
  Clock::time_point began_;  // to wait, in this round
  Seconds next_look_{0};
  bool warned_ = false;
  int beat_ = 0;           // how often the claim was renewed
  std::int64_t slot_ = 0;  // of our claim among those who wait, from 1
  std::int64_t next_ = 0;  // whom to look at
  std::map<std::int64_t, std::string> seen_;
};

std::string joined(const std::vector<std::int64_t>& ranks) {
  std::string all;
  for (const std::int64_t rank : ranks) all += text(all.empty() ? "" : ", ", rank);
  return all;
}

}  // namespace

Rendezvous through_store(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                         const std::vector<std::int64_t>& members, Seconds timeout) {
  const auto meeting = std::make_shared<Meeting>(
      store, Claim{rank, size, ::getpid(), host_name(), joined(members)}, timeout);
  return [meeting](const std::string& mine) {
    try {
      return meeting->round(mine);
    } catch (...) {
      meeting->leave();
      throw;
    }
  };
}

}  // namespace quoit
