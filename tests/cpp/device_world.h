#pragma once
// Ranks as threads that run compressed collectives by the kernels of CUDA, on the host: an exchange
// is a meeting of all.
#include <barrier>
#include <span>
#include <thread>

#include "collective/device_factored.h"
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

  // Every message must have its other side.
  void exchange(int rank, std::span<const DeviceMessage> messages) {
    posted_[static_cast<std::size_t>(rank)] = messages;
    barrier_.arrive_and_wait();
    for (const DeviceMessage& mine : messages) {
      const DeviceMessage* theirs = nullptr;
      for (const DeviceMessage& other : posted_[static_cast<std::size_t>(mine.rank)])
        if (other.rank == rank && other.sending != mine.sending) theirs = &other;
      EXPECT(theirs != nullptr && theirs->size == mine.size && mine.size > 0, "rank ", rank,
             mine.sending ? " sends" : " expects", " what rank ", mine.rank, " does not");
      if (!mine.sending) std::memcpy(mine.bytes, theirs->bytes, mine.size);
    }
    barrier_.arrive_and_wait();
  }

 private:
  std::barrier<> barrier_;
  std::vector<std::span<const DeviceMessage>> posted_;
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
                     [&](std::span<const DeviceMessage> m) { meeting.exchange(rank, m); },
                     report};
        body(rank, on);
      } catch (const std::exception& e) {
        EXPECT(false, e.what());
      }
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace quoit::test
