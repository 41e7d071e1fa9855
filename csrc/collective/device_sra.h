#pragma once
// Compressed collectives in memory of a CUDA device: SRA as collective/compressed.h has it, with
// the bits of the CPU's where ranks add up in the same order. The same tiles have the same owners,
// and are rounded by the same random numbers. Everything is only put into a stream: nothing here
// waits for a device, or allocates, once the object is made; where exchanges wait for nothing
// either, a run may be captured into a CUDA graph.
#include <functional>
#include <optional>
#include <vector>

#include "collective/compressed.h"
#include "collective/cuda_device.h"
#include "kernels/cuda.h"

namespace quoit {

// Bytes that all ranks give each other: given[r] to rank r, taken[r] from it. Those of this rank
// itself are one memory, which stays as it is. Some may be empty.
struct DeviceExchange {
  std::vector<View> given, taken;
  // Each rank gives the same to all others, and all know how much; otherwise all know how much each
  // takes.
  bool to_all;
};

// What a run works with. All is put into launch.stream.
struct DeviceRun {
  const cuda::KernelSet& kernels;
  cuda::Launch launch;
  // Puts that into the stream. All ranks make the same exchanges, in one order.
  std::function<Task(DeviceExchange)> exchange;
  CompressionReport& report;  // its codec_nanos: how long the host took to launch the kernels
  // Of the stream; null: it is the current one of the thread, which runs it at once.
  const CudaDevice* device = nullptr;
};

// While it lives kernels may be launched, which takes time.
class Launching {
 public:
  explicit Launching(const DeviceRun& on) : timed_(on.report) {
    if (on.device != nullptr) here_.emplace(*on.device);
  }

 private:
  Timed timed_;
  std::optional<CudaDevice::Current> here_;
};

// How many thread blocks of 256 threads a codec's kernel may have at a time, so that it leaves room
// for those of the model: QUOIT_CODEC_BLOCKS, or a quarter of what the current device has room for.
// 0: as many as it likes.
unsigned codec_blocks(const cuda::KernelSet& kernels);

enum class SraStages { Scatter, Gather, Both };

class DeviceSra {
 public:
  // `chunks` of tiles, one for each rank, in their order. Throws UsageError for more ranks than a
  // launch can add up, and for a codec without kernels.
  DeviceSra(const std::vector<Tile>& tiles, const std::vector<TileRange>& chunks, SraStages stages,
            int rank);

  // Of memory that a run needs, at a multiple of 256.
  [[nodiscard]] std::size_t room() const { return ranks() == 1 ? 0 : encoded_ + ranks() * stride_; }

  // `room` is used up; runs that follow each other in the stream may have the same. This and `on`
  // outlive the task.
  Task run(std::byte* room, Terms terms, DeviceRun& on) const;

 private:
  // A rank's part of the encoded buffer.
  struct Chunk {
    std::size_t begin = 0;
    std::size_t size = 0;
  };
  // The tiles of one codec. Offsets count from the beginning of the encoded buffer, those of `mine`
  // from that of this rank's chunk.
  struct Group {
    cuda::Codec codec;
    bool scaled = false;
    std::vector<cuda::Run> all, mine, others;
  };

  [[nodiscard]] std::size_t ranks() const { return chunks_.size(); }
  [[nodiscard]] View chunk(std::byte* encoded, std::size_t rank) const;
  Group& group_of(const Tile& tile);
  void add(const std::vector<Tile>& tiles, TileRange range, std::size_t rank);
  void encode(std::byte* encoded, const Terms& terms, const DeviceRun& on) const;
  void add_up(std::byte* encoded, const std::byte* taken, const Terms& terms,
              const DeviceRun& on) const;
  void decode(const std::byte* encoded, const DeviceRun& on) const;
  [[nodiscard]] DeviceExchange scattered(std::byte* encoded, std::byte* taken) const;
  [[nodiscard]] DeviceExchange gathered(std::byte* encoded) const;
  void count_sent(const DeviceExchange& all, CompressionReport& report) const;

  const SraStages stages_;
  const int rank_;
  std::vector<Chunk> chunks_;
  std::vector<Group> groups_;
  std::size_t encoded_ = 0;  // bytes of all chunks
  std::size_t stride_ = 0;   // between what the ranks give to this one's chunk
};

}  // namespace quoit
