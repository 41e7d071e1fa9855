#include "transport/shm_offers.h"

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

namespace quoit {
namespace {

// Read at a stretch, before the engine's other work, and threads that want its lock, have their
// turn: some forty microseconds; shorter ones cost a tenth to a third more.
constexpr std::size_t kStretch = 512 * 1024;

// What a pipe has room for, most of the time.
constexpr std::size_t kEager = 128 * 1024;

// How long an offer waits for its receive before it is put aside, per byte: about as long as that
// takes, so that waiting in vain at most doubles it. Two ranks that both send first go on then.
constexpr double kPatience = 1.0;  // nanoseconds
constexpr std::int64_t kLongestPatience = 20'000'000;

// What is reckoned for a message that had to be put aside, per byte.
constexpr double kPutAside = 10.0;  // nanoseconds

// False when the other side has turned it meanwhile.
bool turn(std::atomic<std::uint32_t>& state, std::uint32_t from, std::uint32_t to) {
  return state.compare_exchange_strong(from, to, std::memory_order_acq_rel);
}

}  // namespace

std::string gave_up(int rank, std::size_t bytes) {
  return text("rank ", rank, " gave up a message of ", bytes,
              " bytes before all of it was there: its send failed, or ran out of time");
}

std::int64_t nanoseconds_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
      .count();
}

std::uint64_t OffersOut::offer(ConstBytes data, const std::shared_ptr<Transfer::State>& state) {
  if (!memory_->usable()) return 0;
  const std::uint32_t wanted = table_->wanted.load(std::memory_order_relaxed);
  const bool offers = (wanted & OfferTable::bit(data.size())) != 0 || memory_->always();
  if (!offers || !memory_->exposes(data.data(), data.size())) return 0;
  for (std::size_t i = 0; i < OfferTable::kOffers; ++i) {
    std::atomic<std::uint32_t>& word = table_->states[i];
    if (word.load(std::memory_order_acquire) != OfferTable::Free) continue;
    word.store(OfferTable::Offered, std::memory_order_release);
    state->withdraw = [&word, keep = keep_] {
      if (!turn(word, OfferTable::Offered, OfferTable::Withdrawn))
        turn(word, OfferTable::Taken, OfferTable::Withdrawn);
    };
    open_.push_back({i, state});
    return i + 1;
  }
  return 0;
}

bool OffersOut::settle() {
  const std::size_t before = open_.size();
  open_.remove_if([this](const Message& message) {
    std::atomic<std::uint32_t>& word = table_->states[message.index];
    if (word.load(std::memory_order_acquire) != OfferTable::Done) return false;
    message.state->withdraw = nullptr;
    word.store(OfferTable::Free, std::memory_order_release);
    message.state->complete();
    return true;
  });
  return open_.size() < before;
}

void OffersIn::add(Arrival& arrival, const LongFrame& frame) {
  const bool prompt = arrival.receive != nullptr;
  open_.push_back({&arrival, frame, prompt, nanoseconds_now()});
  // Who comes late lets the sender wait; what the pipe can hold need not.
  if (!prompt && arrival.size <= kEager)
    table_->wanted.fetch_and(~OfferTable::bit(arrival.size), std::memory_order_relaxed);
}

// What the pipe cannot hold has to be put aside, which takes longer than any way.
void OffersIn::comes_early(std::size_t bytes) {
  if (bytes > kEager) judge(kPipe, bytes, kPutAside);
}

bool OffersIn::fetch() {
  for (auto message = open_.begin(); message != open_.end(); ++message) {
    const std::size_t before = message->fetched;
    const bool over = advance(*message);
    if (!over && message->fetched == before) continue;
    if (over) open_.erase(message);
    return true;
  }
  return false;
}

// True when the message is over.
bool OffersIn::advance(Message& message) {
  Arrival& arrival = *message.arrival;
  if (!arrival.receive && message.fetched == 0) {
    const auto patience = static_cast<std::int64_t>(kPatience * static_cast<double>(arrival.size));
    if (nanoseconds_now() < message.came + std::min(patience, kLongestPatience)) return false;
  }
  std::atomic<std::uint32_t>& word = table_->states[message.frame.offer - 1];
  if (message.fetched == 0) turn(word, OfferTable::Offered, OfferTable::Taken);
  const bool dropped =
      arrival.receive && (arrival.receive->cancelled || !arrival.receive->error.empty());
  std::string failed;
  if (!dropped && word.load(std::memory_order_acquire) == OfferTable::Taken) {
    try {
      mailbox_->land(arrival, message.fetched);
      const std::size_t bytes = std::min(arrival.size - message.fetched, kStretch);
      memory_->read(member_, message.frame.address + message.fetched,
                    arrival.into + message.fetched, bytes);
      message.fetched += bytes;
      if (message.fetched < arrival.size) return false;
    } catch (const std::exception& e) {
      failed = e.what();
    }
  }
  if (!turn(word, OfferTable::Taken, OfferTable::Done)) {
    failed = gave_up(arrival.from, arrival.size);
    word.store(OfferTable::Done, std::memory_order_release);
  }
  ring(*bell_);
  if (message.prompt && !dropped && failed.empty()) learn(kOffer, arrival.size, message.frame.sent);
  if (failed.empty())
    mailbox_->arrived(arrival);
  else
    mailbox_->spoil(arrival, std::move(failed));
  return true;
}

// The time of a message begins when its sender turned to it, or when the one before was there.
void OffersIn::learn(Way way, std::size_t bytes, std::int64_t sent) {
  const std::int64_t now = nanoseconds_now();
  judge(way, bytes,
        static_cast<double>(now - std::max(sent, last_done_)) / static_cast<double>(bytes));
  last_done_ = now;
}

// Nanoseconds per byte.
void OffersIn::judge(Way way, std::size_t bytes, double cost) {
  const std::size_t kind = size_kind(bytes, kLongMessage, OfferTable::kKinds);
  Trials<2>& trials = trials_[kind];
  trials.record(way, cost);
  const std::uint32_t bit = std::uint32_t{1} << kind;
  if (trials.next({true, memory_->usable()}) == kOffer)
    table_->wanted.fetch_or(bit, std::memory_order_relaxed);
  else
    table_->wanted.fetch_and(~bit, std::memory_order_relaxed);
}

}  // namespace quoit
