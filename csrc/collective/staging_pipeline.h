#pragma once
// What staging is on every accelerator: where in a few slots of the host's memory the pieces of a
// call lie, and when each is copied. How it is copied, a class derived from this one knows.
#include <vector>

#include "collective/staging.h"

namespace quoit {

class StagingPipeline : public Staging {
 public:
  void begin(std::size_t pieces, const Touched& touched) final;
  bool arrived(std::size_t i) final;
  [[nodiscard]] View at(std::size_t i, const View& view) const final;
  void carry_back(std::size_t i) final;
  void join() final { follow(slot_of(pieces_ - 1)); }

 protected:
  // One is filled, one is on the wire, one is carried back.
  static constexpr std::size_t kSlots = 3;

  // One of the copies of a piece.
  struct Copy {
    std::byte* host;
    std::byte* device;
    std::size_t bytes;
  };

 private:
  // Page-locked memory for that many slots, one after another. What the caller has given the
  // accelerator to do so far comes before all copies to the host; copies back need not wait for it,
  // as none begins before the copies to the host into its slot were seen to be over.
  virtual std::byte* open(std::size_t slots, std::size_t slot_bytes) = 0;

  // Begins the copies to the host, on a stream of theirs, once what was last carried back from the
  // slot is carried.
  virtual void bring(std::size_t slot, const std::vector<Copy>& copies) = 0;
  virtual bool brought(std::size_t slot) = 0;

  // Begins the copies back, on another stream. `last`: of the last piece.
  virtual void carry(std::size_t slot, const std::vector<Copy>& copies, bool last) = 0;

  // Puts what the caller gives the accelerator to do from now on behind all copies back, of which
  // this slot's are the last.
  virtual void follow(std::size_t slot) = 0;

  // Where it cannot put everybody who uses the results behind them: whether they are over.
  virtual bool carried(std::size_t /*slot*/) { return true; }

  // A view of the call, and where in a slot its pieces lie.
  struct Place {
    View view;
    bool read;
    bool written;
    std::size_t offset;
  };

  void place(const View& view, bool read, bool written);
  [[nodiscard]] std::size_t slot_of(std::size_t i) const { return i % slots_; }
  [[nodiscard]] View here(std::size_t i, const Place& place) const;
  [[nodiscard]] std::vector<Copy> copies(std::size_t i, bool Place::* concerned) const;

  std::vector<Place> places_;
  std::size_t pieces_ = 0;
  std::size_t slots_ = 0;
  std::size_t slot_bytes_ = 0;
  std::byte* memory_ = nullptr;
};

}  // namespace quoit
