#pragma once
// The way of collectives between devices of one host, without the host's memory: each rank has
// slots on its device that the others read, and tells them on the board when work that fills or
// reads slots is in its stream. Nobody waits for the device itself: a collective only puts work
// into streams, and is over when all of it is there.
#include <span>
#include <vector>

#include "collective/cuda_peers.h"
#include "kernels/cuda.h"
#include "transport/board.h"

namespace quoit {

// The slots obey the board's rules, with streams in place of ranks. A step is a round of the board
// that says: my stream holds what I have to do up to here, and then a mark. Whoever has seen a step
// of all lets its own stream wait for their marks, and only then puts in what reads their slots, or
// publishes the step after next.
//
// - A mark is recorded again four steps later. A wait counts for what was last recorded when it was
//   put into a stream; all have put theirs for step j in when they publish step j + 2, and who
//   publishes j + 4 has seen that.
// - A slot is written again four steps later, in a stream that waits by then for all marks of step
//   j + 2, and these come behind all that read step j.
//
// Rounds of the board that are no steps, of calls on memory of the host, may lie between them.
//
// Marks are recorded before anybody waits for them, so that streams cannot wait for each other in a
// circle, whatever else they hold. What a rank publishes it has put into its stream, so a rank that
// dies has left nothing half told; but what its stream had not come to never happens, and CUDA does
// not say what those find that wait for its marks.
class DeviceLane {
 public:
  static constexpr std::size_t kSlots = Board::kDepth;
  static constexpr std::size_t kSlot = std::size_t{8} << 20;  // bytes
  static constexpr std::size_t kScratch = kSlots * kSlot;
  static_assert(kSlots <= kCudaMarks);

  struct Step {
    Board::Round round;
    std::size_t slot;
  };

  // By rank, null at `scratch`'s own. The stream is the lane's for good.
  DeviceLane(CudaDevice& device, const cuda::KernelSet& kernels, Board& board,
             const CudaScratch& scratch, std::vector<const CudaWindow*> windows,
             DeviceStream& stream);

  [[nodiscard]] int rank() const { return board_.rank(); }
  [[nodiscard]] int size() const { return board_.size(); }
  [[nodiscard]] Board& board() const { return board_; }
  [[nodiscard]] DeviceStream& stream() const { return stream_; }
  [[nodiscard]] const CudaDevice& device() const { return device_; }
  [[nodiscard]] const cuda::KernelSet& kernels() const { return kernels_; }

  // The step that is published next.
  [[nodiscard]] Step next() const { return {board_.next(), steps_ % kSlots}; }

  // Where `rank` puts what belongs to a step.
  [[nodiscard]] std::byte* slot(int rank, const Step& step) const {
    return bases_[static_cast<std::size_t>(rank)] + step.slot * kSlot;
  }

  // All of these put something into the stream, and throw what CUDA fails with.
  void copy(std::span<const cuda::Copy> copies) const;
  void copy(const std::byte* from, std::byte* to, std::size_t bytes) const;
  void reduce(DType dtype, const ReduceStep& step, std::span<const std::byte* const> in,
              std::byte* out, std::byte* also, std::size_t count) const;
  Step publish(const Call& call);
  void follow(const Step& step) const;

  // Room for a pointer to what each rank gives, until the next wait.
  [[nodiscard]] std::span<const std::byte*> inputs() { return inputs_; }

 private:
  CudaDevice& device_;
  const cuda::KernelSet& kernels_;
  Board& board_;
  DeviceStream& stream_;
  const CudaScratch& scratch_;
  const std::vector<const CudaWindow*> windows_;
  std::vector<std::byte*> bases_;
  std::vector<const std::byte*> inputs_;
  std::uint64_t steps_ = 0;
};

// Waits until all have published a step, and lets the lane's stream wait for it.
class Stepped final : public Pollable {
 public:
  Stepped(DeviceLane& lane, const DeviceLane::Step& step)
      : lane_(lane), step_(step), everyone_(lane.board(), step.round) {}

  bool ready() override { return everyone_.ready(); }
  [[nodiscard]] bool awaits(int rank) const override { return everyone_.awaits(rank); }
  [[nodiscard]] std::string awaited() const override { return everyone_.awaited(); }
  void result() const {
    everyone_.result();
    lane_.follow(step_);
  }

 private:
  DeviceLane& lane_;
  const DeviceLane::Step step_;
  Published everyone_;
};

}  // namespace quoit
