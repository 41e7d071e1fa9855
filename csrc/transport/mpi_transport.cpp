#include "transport/mpi_transport.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <thread>
#include <utility>

namespace quoit {
namespace {

// MPI's tags begin at 0. The group's own streams have small negative tags here; below them all is
// the farewell of a member that leaves.
constexpr int kFarewell = 0;
constexpr Tag kTagShift = 8;

// Arrivals taken up in one call of progress(): a flood must not keep the engine from the rest.
constexpr int kArrivalsPerCall = 16;

// How long a leaving member waits for the others to leave.
constexpr Seconds kLeaving{0.25};

// How MPI is told of a number of bytes: it counts in int, so what has 2 GiB or more is one element
// of a type made for it.
template <class Abi>
class Extent {
 public:
  Extent(const LoadedMpi<Abi>& mpi, std::size_t bytes) : mpi_(mpi), type_(mpi.calls().byte) {
    made_ = bytes > static_cast<std::size_t>(std::numeric_limits<int>::max());
    count_ = made_ ? 1 : static_cast<int>(bytes);
    if (!made_) return;
    constexpr std::size_t kBlock = 1024UL * 1024 * 1024;
    std::vector<int> lengths;
    std::vector<std::ptrdiff_t> offsets;
    for (std::size_t at = 0; at < bytes; at += kBlock) {
      lengths.push_back(static_cast<int>(std::min(kBlock, bytes - at)));
      offsets.push_back(static_cast<std::ptrdiff_t>(at));
    }
    const int blocks = static_cast<int>(lengths.size());
    mpi.must(mpi.calls().type_create_hindexed, blocks, lengths.data(), offsets.data(), type_,
             &type_);
    mpi.must(mpi.calls().type_commit, &type_);
  }
  // MPI keeps the type for as long as a message uses it.
  ~Extent() {
    if (made_) mpi_.calls().type_free(&type_);
  }
  Extent(const Extent&) = delete;
  Extent& operator=(const Extent&) = delete;

  [[nodiscard]] int count() const { return count_; }
  [[nodiscard]] typename Abi::Datatype type() const { return type_; }

 private:
  const LoadedMpi<Abi>& mpi_;
  typename Abi::Datatype type_;
  int count_;
  bool made_;
};

}  // namespace

template <class Abi>
Transfer MpiTransport<Abi>::send(int to, Tag tag, ConstBytes data) {
  QUOIT_CHECK(to >= 0 && to < size_, UsageError, "send to rank ", to, " of a group of ", size_);
  const Tag highest = mpi_.highest_tag() - kTagShift;
  QUOIT_CHECK(tag > -kTagShift && tag <= highest, UsageError, "send with tag ", tag, ": ",
              mpi_.version(), " carries tags from 0 to ", highest, " only");
  auto state = std::make_shared<Transfer::State>();
  state->peer = to;
  if (failure_) {
    state->fail(*failure_);
    return Transfer(std::move(state));
  }
  try {
    check_running();
    const Extent<Abi> extent(mpi_, data.size());
    start({state, nullptr}, [&](Request* request) {
      mpi_.must(calls_.isend, data.data(), extent.count(), extent.type(), to,
                static_cast<int>(tag + kTagShift), comm_, request);
    });
  } catch (const std::exception& error) {
    fail(error.what());
    if (!state->done) state->fail(error.what());
  }
  return Transfer(std::move(state));
}

template <class Abi>
bool MpiTransport<Abi>::progress() {
  if (failure_) return false;
  try {
    check_running();
    bool moved = finish_some();
    moved |= take_held();
    return take_arrivals() || moved;
  } catch (const std::exception& error) {
    fail(error.what());
    return true;
  }
}

// To call MPI after its end would abort the process.
template <class Abi>
void MpiTransport<Abi>::check_running() const {
  QUOIT_CHECK(!mpi_.over(), TransportError, "MPI was finalised while a group of Quoit still used ",
              "it: destroy the group before MPI_Finalize");
}

// Begins a request. Small messages are done at once: asking here spares them a turn of progress().
template <class Abi>
template <class Begin>
void MpiTransport<Abi>::start(Purpose purpose, Begin begin) {
  requests_.push_back(calls_.request_null);
  purposes_.push_back(std::move(purpose));
  begin(&requests_.back());
  int done = 0;
  Status status;
  mpi_.must(calls_.test, &requests_.back(), &done, &status);
  if (done == 0) return;
  settle(purposes_.back());
  requests_.pop_back();
  purposes_.pop_back();
}

template <class Abi>
bool MpiTransport<Abi>::finish_some() {
  if (requests_.empty()) return false;
  finished_.resize(requests_.size());
  statuses_.resize(requests_.size());
  int count = 0;
  const int code = calls_.testsome(static_cast<int>(requests_.size()), requests_.data(), &count,
                                   finished_.data(), statuses_.data());
  int error_class = 0;
  if (code != 0) mpi_.must(calls_.error_class, code, &error_class);
  const bool in_statuses = error_class == Abi::kErrInStatus;
  QUOIT_CHECK(code == 0 || in_statuses, TransportError, "MPI_Testsome: ", mpi_.error_text(code));

  int error = 0;
  const auto end = finished_.begin() + std::max(count, 0);
  for (auto index = finished_.begin(); index != end; ++index) {
    const int own =
        in_statuses ? statuses_[static_cast<std::size_t>(index - finished_.begin())].error : 0;
    if (own == 0)
      settle(std::exchange(purposes_[static_cast<std::size_t>(*index)], {}));
    else
      error = own;
  }
  // Those that failed stay, for fail() to settle.
  QUOIT_CHECK(error == 0, TransportError, "a message over MPI failed: ", mpi_.error_text(error));

  // From the back, so that the last one may fill each gap.
  std::sort(finished_.begin(), end, std::greater<>());
  for (auto index = finished_.begin(); index != end; ++index) {
    const auto gap = static_cast<std::size_t>(*index);
    requests_[gap] = requests_.back();
    purposes_[gap] = std::move(purposes_.back());
    requests_.pop_back();
    purposes_.pop_back();
  }
  return count > 0;
}

template <class Abi>
bool MpiTransport<Abi>::take_arrivals() {
  for (int taken = 0; taken < kArrivalsPerCall; ++taken) {
    int found = 0;
    Message message{};
    Status status{};
    mpi_.must(calls_.improbe, Abi::kAnySource, Abi::kAnyTag, comm_, &found, &message, &status);
    if (found == 0) return taken > 0;
    take(message, status);
  }
  return true;
}

// MPI hands messages of one sender over in the order they were sent, whatever their tags.
template <class Abi>
void MpiTransport<Abi>::take(Message message, const Status& status) {
  typename Abi::Count bytes = 0;
  mpi_.must(calls_.get_elements_x, &status, calls_.byte, &bytes);
  const auto size = static_cast<std::size_t>(bytes);
  if (status.tag == kFarewell) {
    ++farewells_;
    return receive(message, nullptr, size);
  }
  Arrival& arrival = mailbox_.begin(status.source, status.tag - kTagShift, size, /*direct=*/true);
  if (arrival.held)
    held_.push_back({message, &arrival});
  else
    receive(message, &arrival, size);
}

// Begins to receive what was held and is wanted now, or, as MPI would wait for it, all in the end.
template <class Abi>
bool MpiTransport<Abi>::take_held() {
  if (held_.empty()) return false;
  std::vector<Held> now;
  std::erase_if(held_, [&](const Held& one) {
    if (!leaving_ && !one.arrival->wanted()) return false;
    now.push_back(one);
    return true;
  });
  for (const Held& one : now) {
    mailbox_.place(*one.arrival);
    receive(one.message, one.arrival, one.arrival->size);
  }
  return !now.empty();
}

template <class Abi>
void MpiTransport<Abi>::receive(Message message, Arrival* arrival, std::size_t bytes) {
  const Extent<Abi> extent(mpi_, bytes);
  start({nullptr, arrival}, [&](Request* request) {
    mpi_.must(calls_.imrecv, static_cast<void*>(arrival == nullptr ? nullptr : arrival->into),
              extent.count(), extent.type(), &message, request);
  });
}

template <class Abi>
void MpiTransport<Abi>::settle(const Purpose& purpose) {
  if (purpose.send) purpose.send->complete();
  if (purpose.arrival != nullptr) mailbox_.arrived(*purpose.arrival);
}

template <class Abi>
void MpiTransport<Abi>::fail(const std::string& why) {
  failure_ = why;
  for (const Purpose& purpose : purposes_) {
    keep_for_mpi(purpose);
    if (purpose.send && !purpose.send->done) purpose.send->fail(why);
    if (purpose.arrival != nullptr) give_up(*purpose.arrival, why);
  }
  for (const Held& one : held_) give_up(*one.arrival, why);
  requests_.clear();
  purposes_.clear();
  held_.clear();
  mpi_.abandon();
}

// One that nobody asked for yet stays incomplete: whoever asks will hear of the failure.
template <class Abi>
void MpiTransport<Abi>::give_up(Arrival& arrival, const std::string& why) {
  if (!arrival.receive) return;
  arrival.receive->error = why;
  arrival.landing = {};
  mailbox_.arrived(arrival);
}

// MPI may still write into the buffer of an arrival that is given up.
template <class Abi>
void MpiTransport<Abi>::keep_for_mpi(const Purpose& purpose) {
  if (purpose.arrival != nullptr) static_cast<void>(purpose.arrival->buffer.release());
}

// Says farewell to all and waits a moment for theirs. True when every member has left: then nothing
// is on its way here any more.
template <class Abi>
bool MpiTransport<Abi>::leave() {
  const Deadline deadline = Deadline::after(kLeaving);
  leaving_ = true;
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    start({}, [&](Request* request) {
      mpi_.must(calls_.isend, nullptr, 0, calls_.byte, peer, kFarewell, comm_, request);
    });
  }
  while (!failure_ && !deadline.passed()) {
    if (progress()) continue;
    if (requests_.empty() && held_.empty() && farewells_ == size_ - 1) return true;
    std::this_thread::yield();
  }
  return false;
}

// The communicator is freed only when every member has left. MPICH and Open MPI free it without
// asking the others, and may give its identity to the next one: a late message of the old group
// would be taken for one of the new. Otherwise it stays until MPI ends.
template <class Abi>
MpiTransport<Abi>::~MpiTransport() {
  if (failure_ || !mpi_.alive()) return;
  try {
    if (leave()) mpi_.must(calls_.comm_free, &comm_);
  } catch (const std::exception&) {
    mpi_.abandon();
  }
  if (requests_.empty() && held_.empty()) return;
  mpi_.abandon();
  for (const Purpose& purpose : purposes_) keep_for_mpi(purpose);
}

template class MpiTransport<MpichAbi>;
template class MpiTransport<OpenMpiAbi>;
template class MpiTransport<StandardAbi>;

}  // namespace quoit
