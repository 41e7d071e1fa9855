#pragma once
// Calls on memory that the host cannot touch, an accelerator's: what they read is brought to memory
// of the host and what they wrote carried back, piece by piece, so that the copies of some pieces
// go on while others are on the wire.
#include <memory>
#include <vector>

#include "collective/on_device.h"
#include "core/types.h"

namespace quoit {

class Staging {
 public:
  // The views of a call that point into the accelerator's memory. One that is read and written is
  // in both.
  struct Touched {
    std::vector<View> read;
    std::vector<View> written;
  };

  virtual ~Staging() = default;

  // Once, from the caller's thread, whose work on the accelerator so far comes first: piece i of
  // each view shall be the i-th of `pieces` nearly equal parts. Begins to bring the first ones.
  virtual void begin(std::size_t pieces, const Touched& touched) = 0;

  // Whether what piece i reads has come; of the piece after the last, whether all that was written
  // is where join() needs it. Throws what the accelerator failed with.
  virtual bool arrived(std::size_t i) = 0;

  // Where piece i of a view lies.
  [[nodiscard]] virtual View at(std::size_t i, const View& view) const = 0;

  // Begins to carry back what piece i wrote. Pieces come in order.
  virtual void carry_back(std::size_t i) = 0;

  // After the last piece: what the calling thread gives its accelerator to do from now on finds
  // all carried back.
  virtual void join() = 0;
};

// Bytes of a call that are under way together.
inline constexpr std::size_t kStagedBytes = std::size_t{4} << 20;

// The views that one task works on: those of the call, or a piece of each.
class Piece {
 public:
  Piece() = default;
  Piece(const Staging& staging, std::size_t i) : staging_(&staging), i_(i) {}

  View operator()(const View& view) const { return staging_ ? staging_->at(i_, view) : view; }

  // Takes them where there is but one piece.
  std::vector<View> operator()(std::vector<View>& views) const {
    if (!staging_) return std::move(views);
    std::vector<View> ours;
    ours.reserve(views.size());
    for (const View& view : views) ours.push_back(staging_->at(i_, view));
    return ours;
  }

 private:
  const Staging* staging_ = nullptr;
  std::size_t i_ = 0;
};

// Waits for what `arrived` tells of a piece.
class Brought final : public OnDevice {
 public:
  Brought(Staging& staging, std::size_t i, std::shared_ptr<int> count)
      : OnDevice(std::move(count)), staging_(staging), i_(i) {}

  [[nodiscard]] std::string awaited() const override {
    return "this rank's accelerator, which has not come to the copies of this call";
  }

 private:
  bool come() override { return staging_.arrived(i_); }

  Staging& staging_;
  std::size_t i_;
};

}  // namespace quoit
