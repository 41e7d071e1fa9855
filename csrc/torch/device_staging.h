#pragma once
// Tensors of an accelerator in collectives of the host: by way of page-locked memory, on streams of
// their own. Written against c10's streams and events, and so for whatever accelerator torch has.
#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <optional>
#include <utility>
#include <vector>

#include "collective/staging.h"

namespace quoit {

class DeviceStaging final : public Staging {
 public:
  explicit DeviceStaging(c10::Device device);

  [[nodiscard]] c10::Device device() const { return device_; }

  // Whose memory views point into.
  void add(const at::Tensor& tensor) { tensors_.push_back(tensor); }

  // `from` is copied to `to` when all else is carried back: a tensor that is not contiguous.
  void copy_back(const at::Tensor& to, const at::Tensor& from) {
    copies_back_.emplace_back(to, from);
  }

  void begin(std::size_t pieces, const Touched& touched) override;
  bool arrived(std::size_t i) override;
  [[nodiscard]] View at(std::size_t i, const View& view) const override;
  void carry_back(std::size_t i) override;
  void join() override;

 private:
  // A view of the call, and where in a slot its pieces lie.
  struct Place {
    View view;
    bool read;
    bool written;
    std::size_t offset;
  };

  // Memory for one piece, and how far the copies have come that use it.
  struct Slot {
    c10::Event arrived;
    c10::Event carried;
  };

  void place(const View& view, bool read, bool written);
  void bring(std::size_t i);
  void copy(std::size_t i, const Place& place, bool to_host) const;
  [[nodiscard]] std::size_t offset_of(std::size_t i, const Place& place) const {
    return i % slots_.size() * slot_bytes_ + place.offset;
  }

  const c10::Device device_;
  const c10::Stream in_;   // what copies to the host go on
  const c10::Stream out_;  // and those back
  std::vector<at::Tensor> tensors_;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies_back_;
  std::vector<Place> places_;
  std::size_t pieces_ = 0;
  std::size_t slot_bytes_ = 0;
  at::Tensor host_;  // bytes of all slots
  std::vector<Slot> slots_;
};

}  // namespace quoit
