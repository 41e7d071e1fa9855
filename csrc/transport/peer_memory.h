#pragma once
// Memory of the other processes of a host, read where it lies: the kernel copies it straight into
// this process's (process_vm_readv), where a way through shared memory takes two copies. Kernels
// may forbid it, and some memory cannot be read so: who gives finds out, and goes the other way.
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace quoit {

// When bytes that others of the host want are left where they lie.
enum class SingleCopy : std::uint8_t {
  Auto,    // where that is faster
  Always,  // where it is possible
  Never,
};

class PeerMemory {
 public:
  // For the members of a host, `mine` of them this process; `shared` is zeroed memory of
  // bytes(members) that all of them map, and names[i] is member i's rank in the group. What one
  // member never does, none does.
  static std::size_t bytes(int members) { return static_cast<std::size_t>(members) * sizeof(Card); }
  PeerMemory(std::byte* shared, int mine, std::vector<int> names, SingleCopy when);
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  [[nodiscard]] bool always() const { return when_ == SingleCopy::Always; }

  // Whether all members can read each other, as far as is known yet. Each finds out for itself, and
  // tells the others, when it is first asked after all have made their objects.
  [[nodiscard]] bool usable() {
    if (!usable_) usable_ = find_out();
    return usable_.value_or(false);
  }

  // Whether the others can read these bytes of this process.
  [[nodiscard]] bool exposes(const std::byte* data, std::size_t bytes) {
    return usable() && seen(data, bytes);
  }

  // Copies what lies at `address` in the process of a member, who exposes it. Throws
  // TransportError when the member is gone, or the memory.
  void read(int member, std::uint64_t address, std::byte* into, std::size_t bytes) const;

 private:
  // What a member says of itself.
  struct alignas(64) Card {
    std::atomic<std::uint64_t> word_at;  // where it keeps its word; 0: none may read it, yet
    std::uint64_t word;
    int pid;
    std::atomic<std::uint32_t> reads;  // 0: has not tried yet; else a Verdict
  };
  enum Verdict : std::uint32_t { kReadsAll = 1, kReadsNotAll = 2 };
  struct Range {
    const std::byte* begin = nullptr;
    const std::byte* end = nullptr;
  };

  std::optional<bool> find_out();
  [[nodiscard]] std::optional<bool> said_by_all() const;
  bool try_reading();
  bool seen(const std::byte* data, std::size_t bytes);

  Card* cards_;
  int mine_;
  std::vector<int> names_;
  SingleCopy when_;
  std::uint64_t word_;          // which others look for, to know that they read this process
  std::optional<bool> usable_;  // when everybody has said so, or one that it cannot
  std::array<Range, 8> seen_{};
  std::size_t next_seen_ = 0;
};

}  // namespace quoit
