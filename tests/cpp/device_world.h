#pragma once
// Ranks as threads that run compressed collectives by the kernels of CUDA, on the host: an exchange
// is a meeting of all.
#include <barrier>
#include <thread>

#include "collective/device_factored.h"
#include "collective/windows.h"
#include "cuda_host.h"
#include "kernels/cast.h"
#include "world.h"

namespace quoit::test {

// Numbers as they lie in a buffer of this dtype.
inline std::vector<std::byte> as(DType dtype, const std::vector<float>& numbers) {
  std::vector<std::byte> bytes(numbers.size() * size_of(dtype));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const std::uint16_t narrow =
        dtype == DType::BFloat16 ? bf16_from_float(numbers[i]) : f16_from_float(numbers[i]);
    if (dtype == DType::Float32)
      std::memcpy(&bytes[4 * i], &numbers[i], 4);
    else
      std::memcpy(&bytes[2 * i], &narrow, 2);
  }
  return bytes;
}

class Meeting {
 public:
  explicit Meeting(int ranks) : barrier_(ranks), posted_(static_cast<std::size_t>(ranks)) {}

  // What a rank gives must be what the other expects, and its own be one memory.
  Task exchange(int rank, DeviceExchange all) {
    const auto me = static_cast<std::size_t>(rank);
    posted_[me] = &all;
    barrier_.arrive_and_wait();
    EXPECT(all.given.size() == posted_.size() && all.taken.size() == posted_.size(),
           "one of each for each rank");
    for (std::size_t r = 0; r < posted_.size(); ++r) {
      const View given = posted_[r]->given[me], taken = all.taken[r];
      EXPECT(given.count == taken.count, "rank ", r, " gives ", given.count, " bytes to rank ", me,
             ", which expects ", taken.count);
      EXPECT(posted_[r]->to_all == all.to_all && known(*posted_[r]) == known(all), "ranks ", r,
             " and ", me, " make other exchanges");
      EXPECT(!all.to_all || all.given[r].data == all.given[me].data, "to ", r, " another");
      EXPECT((given.data == taken.data) == (r == me), "between ", r, " and ", me);
      if (r != me && given.count > 0) std::memcpy(taken.data, given.data, given.count);
    }
    barrier_.arrive_and_wait();
    co_return;
  }

 private:
  // The longest, of what all ranks know.
  static std::size_t known(const DeviceExchange& all) {
    return longest(all.to_all ? all.taken : all.given);
  }

  std::barrier<> barrier_;
  std::vector<const DeviceExchange*> posted_;
};

// Memory for a run, filled with what is no number.
class Rooms {
 public:
  std::byte* get(std::size_t bytes, bool zeroed) {
    const std::size_t units = bytes / sizeof(Unit) + 1;
    held_.push_back(std::make_unique<Unit[]>(units));
    auto* const memory = reinterpret_cast<std::byte*>(held_.back().get());
    std::memset(memory, zeroed ? 0 : 0xff, units * sizeof(Unit));
    return memory;
  }
  DeviceRoom room() {
    return [this](std::size_t bytes, bool zeroed) { return get(bytes, zeroed); };
  }

 private:
  struct alignas(256) Unit {
    std::byte bytes[256];
  };
  std::vector<std::unique_ptr<Unit[]>> held_;
};

// Runs `body` on so many ranks at once, each with its way to the others.
template <class Body>
void on_devices(int ranks, Body body) {
  Meeting meeting(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      try {
        CompressionReport report;
        DeviceRun on{host_kernels(),
                     {},
                     [&](DeviceExchange all) { return meeting.exchange(rank, std::move(all)); },
                     report};
        body(rank, on);
      } catch (const std::exception& e) {
        EXPECT(false, e.what());
      }
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace quoit::test
