#pragma once
// Compressed collectives in memory of a CUDA device: SRA as collective/compressed.h has it, with
// the bits of the CPU's where ranks add up in the same order. The same tiles have the same owners,
// and are rounded by the same random numbers. Everything is only put into a stream: nothing here
// waits, or allocates, once the object is made, so a run may be captured into a CUDA graph.
#include <functional>
#include <span>
#include <vector>

#include "collective/compressed.h"
#include "kernels/cuda.h"

namespace quoit {

// Bytes for another rank, or of one.
struct DeviceMessage {
  bool sending = false;
  int rank = 0;
  std::byte* bytes = nullptr;
  std::size_t size = 0;
};

// What a run works with. All is put into launch.stream, whose device is the current one.
struct DeviceRun {
  const cuda::KernelSet& kernels;
  cuda::Launch launch;
  // Puts these messages into the stream, as one step. All ranks make the same steps, and each is
  // sent what it expects. None is empty.
  std::function<void(std::span<const DeviceMessage>)> exchange;
  CompressionReport& report;  // its codec_nanos: how long the host took to launch the kernels
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

  // `room` is used up; runs that follow each other in the stream may have the same.
  void run(std::byte* room, const Terms& terms, DeviceRun& on) const;

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
  [[nodiscard]] int at_distance(int d) const;
  Group& group_of(const Tile& tile);
  void add(const std::vector<Tile>& tiles, TileRange range, std::size_t rank);
  void scatter(std::byte* encoded, std::byte* taken, const Terms& terms, DeviceRun& on) const;
  void add_up(std::byte* encoded, const std::byte* taken, const Terms& terms, DeviceRun& on) const;
  void gather(std::byte* encoded, DeviceRun& on) const;

  const SraStages stages_;
  const int rank_;
  std::vector<Chunk> chunks_;
  std::vector<Group> groups_;
  std::size_t encoded_ = 0;  // bytes of all chunks
  std::size_t stride_ = 0;   // between what the ranks give to this one's chunk
};

}  // namespace quoit
