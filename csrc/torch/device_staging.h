#pragma once
// Tensors of an accelerator in collectives of the host: by way of page-locked memory, on streams of
// their own. Written against c10's streams and events, and so for whatever accelerator torch has.
#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <utility>
#include <vector>

#include "collective/staging_pipeline.h"

namespace quoit {

class DeviceStaging final : public StagingPipeline {
 public:
  explicit DeviceStaging(c10::Device device);

  [[nodiscard]] c10::Device device() const { return device_; }

  // Whose memory views point into.
  void add(const at::Tensor& tensor) { tensors_.push_back(tensor); }

  // `from` is copied to `to` when all else is carried back: a tensor that is not contiguous.
  void copy_back(const at::Tensor& to, const at::Tensor& from) {
    copies_back_.emplace_back(to, from);
  }

 private:
  // How far the copies have come that use a slot.
  struct Slot {
    c10::Event arrived;
    c10::Event carried;
  };

  std::byte* open(std::size_t slots, std::size_t slot_bytes) override;
  void bring(std::size_t slot, const std::vector<Copy>& copies) override;
  bool brought(std::size_t slot) override { return slots_[slot].arrived.query(); }
  void carry(std::size_t slot, const std::vector<Copy>& copies, bool last) override;
  void follow(std::size_t slot) override;
  [[nodiscard]] at::Tensor on_host(const Copy& copy) const;
  [[nodiscard]] at::Tensor on_device(const Copy& copy) const;

  const c10::Device device_;
  const c10::Stream in_;   // what copies to the host go on
  const c10::Stream out_;  // and those back
  std::vector<at::Tensor> tensors_;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies_back_;
  at::Tensor host_;  // bytes of all slots
  std::vector<Slot> slots_;
};

}  // namespace quoit
