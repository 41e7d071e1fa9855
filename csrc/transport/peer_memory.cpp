#include "transport/peer_memory.h"

#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <random>
#include <utility>

#include "core/log.h"
#include "transport/transport.h"

namespace quoit {
namespace {

// Longer allocations have mappings of their own.
constexpr std::size_t kInHeap = 128 * 1024;

// As read(), but says what was in the way: an error number, or 0.
int try_read(int pid, std::uint64_t address, std::byte* into, std::size_t bytes) {
  while (bytes > 0) {
    const iovec here{into, bytes};
    void* const lies = reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
    const iovec there{lies, bytes};
    const ssize_t got = ::process_vm_readv(pid, &here, 1, &there, 1, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? errno : EFAULT;
    into += got;
    address += static_cast<std::uint64_t>(got);
    bytes -= static_cast<std::size_t>(got);
  }
  return 0;
}

// Where only ancestors may look into a process (Yama's ptrace_scope 1, the rule on Ubuntu), those
// that the same launcher started have to be let in.
void let_siblings_read() {
  int scope = 0;
  std::ifstream("/proc/sys/kernel/yama/ptrace_scope") >> scope;
  if (scope == 1) ::prctl(PR_SET_PTRACER, ::getppid(), 0, 0, 0);
}

std::uint64_t address_of(const void* data) { return reinterpret_cast<std::uintptr_t>(data); }

}  // namespace

PeerMemory::PeerMemory(std::byte* shared, int mine, std::vector<int> names, SingleCopy when)
    : cards_(reinterpret_cast<Card*>(shared)),
      mine_(mine),
      names_(std::move(names)),
      when_(when),
      word_((std::uint64_t{std::random_device{}()} << 32) |
            static_cast<std::uint32_t>(::getpid())) {
  Card& card = cards_[mine_];
  if (when == SingleCopy::Never) {
    card.reads.store(kReadsNotAll, std::memory_order_release);
    return;
  }
  let_siblings_read();
  card.pid = ::getpid();
  card.word = word_;
  card.word_at.store(address_of(&word_), std::memory_order_release);
}

void PeerMemory::read(int member, std::uint64_t address, std::byte* into, std::size_t bytes) const {
  const Card& card = cards_[member];
  const int failed = try_read(card.pid, address, into, bytes);
  QUOIT_CHECK(failed != ESRCH, TransportError,
              died(names_[static_cast<std::size_t>(member)], card.pid));
  QUOIT_CHECK(failed == 0, TransportError, "rank ", names_[static_cast<std::size_t>(member)],
              " (process ", card.pid, " on this host) gave ", bytes,
              " bytes of its memory, which cannot be read any more (", std::strerror(failed),
              "): did it free it while the call ran?");
}

// Nothing while somebody has yet to speak.
std::optional<bool> PeerMemory::find_out() {
  if (const auto known = said_by_all()) return known;
  for (std::size_t i = 0; i < names_.size(); ++i)
    if (cards_[i].word_at.load(std::memory_order_acquire) == 0) return std::nullopt;
  std::atomic<std::uint32_t>& mine = cards_[mine_].reads;
  if (mine.load(std::memory_order_relaxed) == 0)
    mine.store(try_reading() ? kReadsAll : kReadsNotAll, std::memory_order_release);
  return said_by_all();
}

std::optional<bool> PeerMemory::said_by_all() const {
  bool spoken = true;
  for (std::size_t i = 0; i < names_.size(); ++i) {
    const std::uint32_t reads = cards_[i].reads.load(std::memory_order_acquire);
    if (reads == kReadsNotAll) return false;
    spoken &= reads == kReadsAll;
  }
  return spoken ? std::optional(true) : std::nullopt;
}

bool PeerMemory::try_reading() {
  for (std::size_t i = 0; i < names_.size(); ++i) {
    const Card& card = cards_[i];
    std::uint64_t word = 0;
    const int failed = try_read(card.pid, card.word_at.load(std::memory_order_acquire),
                                reinterpret_cast<std::byte*>(&word), sizeof word);
    if (failed == 0 && word == card.word) continue;
    if (log::debug())
      log::write(text("no single copies: rank ", names_[static_cast<std::size_t>(mine_)],
                      " cannot read the memory of rank ", names_[i], " (process ", card.pid, "): ",
                      failed != 0 ? std::strerror(failed) : "another process has that number"));
    return false;
  }
  return true;
}

// Devices' memory, for one, is mapped in ways that the kernel does not read. It is asked about a
// buffer's ends; of small ones that were used lately not again, as they lie in a heap, where
// nothing else will come to lie.
bool PeerMemory::seen(const std::byte* data, std::size_t bytes) {
  if (bytes == 0) return true;
  const std::byte* const end = data + bytes;
  const bool small = bytes < kInHeap;
  if (small)
    for (const Range& range : seen_)
      if (range.begin <= data && end <= range.end) return true;
  std::array<std::byte, 2> got{};
  const iovec here{got.data(), got.size()};
  const std::array<iovec, 2> ends{iovec{const_cast<std::byte*>(data), 1},
                                  iovec{const_cast<std::byte*>(end - 1), 1}};
  if (::process_vm_readv(::getpid(), &here, 1, ends.data(), ends.size(), 0) != 2) return false;
  if (small) seen_[next_seen_++ % seen_.size()] = {data, end};
  return true;
}

}  // namespace quoit
