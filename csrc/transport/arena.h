#pragma once
// Memory for tensors that the other ranks of a host can read where it lies, so that collectives on
// it skip a copy. One arena serves all groups of a process. Safe to use from any thread.
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>

#include "transport/shared_memory.h"

namespace quoit {

// Where bytes of an arena are, for other processes; small enough to ride beside a flag.
struct Place {
  std::int32_t pid = 0;  // 0: not in an arena
  std::int32_t fd = 0;
  std::uint32_t serial = 0;  // tells memory from what had the same fd before
  std::uint64_t size = 0;    // of the whole mapping
  std::uint64_t offset = 0;

  [[nodiscard]] bool shared() const { return pid != 0; }
};

class Arena {
 public:
  static constexpr std::size_t kAlignment = 4096;

  // Freed memory is kept for the next allocation of about its size, as training loops ask for the
  // same sizes again and again. Throws UnavailableError when the system has none.
  [[nodiscard]] std::shared_ptr<std::byte> allocate(std::size_t bytes);

  // Where `bytes` at `data` are, if an allocation holds them all.
  [[nodiscard]] Place place_of(const std::byte* data, std::size_t bytes) const;

  // The memory at another rank's place, mapped at first use. Readable at least until a hundred
  // other places were asked for.
  [[nodiscard]] const std::byte* window(const Place& place);

 private:
  struct Region {
    std::shared_ptr<SharedMemory> memory;
    std::uint32_t serial;
  };
  struct Window {
    std::int32_t pid;
    std::int32_t fd;
    std::uint32_t serial;
    std::shared_ptr<SharedMemory> memory;
  };
  // Outlives the arena as long as an allocation does.
  struct State {
    std::mutex mutex;
    std::map<const std::byte*, Region> used;  // by first byte
    std::list<Region> free;                   // the latest first
    std::list<Window> windows;                // the latest first
    std::uint32_t serials = 0;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace quoit
