#include "transport/host_segment.h"

#include <unistd.h>

#include <array>
#include <cstring>

#include "core/host.h"

namespace quoit {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kFaultText = 480;

enum State : std::uint32_t { kAbsent, kHere, kLeft };

struct alignas(64) Member {
  std::atomic<std::uint32_t> state;
  int pid;
  unsigned long long start_time;
};

std::size_t round_up(std::size_t bytes) { return ceil_div(bytes, kPage) * kPage; }

}  // namespace

// At the head of the segment, zeroed at birth; the members follow.
struct alignas(64) HostSegment::Header {
  std::atomic<std::uint32_t> fault;  // 0 none, 1 being written, 2 readable
  std::array<char, kFaultText> fault_text;

  Member* members() { return reinterpret_cast<Member*>(this + 1); }
  static std::size_t bytes(int n) {
    return round_up(sizeof(Header) + static_cast<std::size_t>(n) * sizeof(Member));
  }
};

std::size_t HostSegment::bytes(int members) {
  return Header::bytes(members) + Board::bytes(members) + round_up(ShmTransport::bytes(members)) +
         round_up(Introductions::bytes(members)) + PeerMemory::bytes(members);
}

HostSegment::HostSegment(std::shared_ptr<void> keep, std::byte* memory, Members members)
    : keep_(std::move(keep)),
      members_(std::move(members)),
      header_(reinterpret_cast<Header*>(memory)),
      board_(memory + Header::bytes(static_cast<int>(members_.ranks.size())), members_.mine,
             members_.ranks, members_.bells),
      pipes_(reinterpret_cast<Pipe*>(memory + Header::bytes(board_.size()) +
                                     Board::bytes(board_.size()))),
      introductions_(
          reinterpret_cast<std::byte*>(pipes_) + round_up(ShmTransport::bytes(board_.size())),
          members_.mine, members_.bells),
      peers_(reinterpret_cast<std::byte*>(pipes_) + round_up(ShmTransport::bytes(board_.size())) +
                 round_up(Introductions::bytes(board_.size())),
             members_.mine, members_.ranks, members_.single_copy) {
  board_.use(peers_);
  Member& me = header_->members()[members_.mine];
  me.pid = ::getpid();
  me.start_time = start_time_of(me.pid);
  me.state.store(kHere, std::memory_order_release);
}

void HostSegment::leave() {
  // A forked child that tidies up at its exit must not speak for its parent.
  if (header_->members()[members_.mine].pid != ::getpid()) return;
  header_->members()[members_.mine].state.store(kLeft, std::memory_order_release);
  for (Bell* bell : members_.bells) ring(*bell);
}

void HostSegment::await_all(Deadline deadline) {
  for (std::size_t i = 0; i < members_.ranks.size(); ++i) {
    while (header_->members()[i].state.load(std::memory_order_acquire) == kAbsent) {
      QUOIT_CHECK(
          !deadline.passed(), TimeoutError, "rank ", members_.ranks[i],
          " did not map the shared memory of its group in time: did it fail while starting?");
      ::usleep(100);
    }
  }
}

void HostSegment::announce_fault(const std::string& why) {
  std::uint32_t none = 0;
  if (!header_->fault.compare_exchange_strong(none, 1)) return;
  const std::size_t length = std::min(why.size(), kFaultText - 1);
  std::memcpy(header_->fault_text.data(), why.data(), length);
  header_->fault.store(2, std::memory_order_release);
  for (Bell* bell : members_.bells) ring(*bell);
}

std::optional<std::string> HostSegment::fault() const {
  if (header_->fault.load(std::memory_order_acquire) != 2) return std::nullopt;
  return std::string(header_->fault_text.data());
}

std::optional<std::string> HostSegment::dead() const {
  for (int i = 0; i < board_.size(); ++i) {
    const Member& member = header_->members()[i];
    if (member.state.load(std::memory_order_acquire) == kHere &&
        !is_running(member.pid, member.start_time))
      return died(members_.ranks[static_cast<std::size_t>(i)], member.pid);
  }
  return std::nullopt;
}

bool HostSegment::left(int position) const {
  return header_->members()[position].state.load(std::memory_order_acquire) == kLeft;
}

}  // namespace quoit
