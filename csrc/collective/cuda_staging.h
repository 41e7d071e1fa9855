#pragma once
// Arrays of a CUDA device in collectives of the host, without torch: by way of page-locked memory,
// written against the driver alone. The sibling for torch is torch/device_staging.h.
#include <atomic>
#include <memory>
#include <vector>

#include "collective/cuda_device.h"
#include "collective/staging_pipeline.h"

namespace quoit {

class CudaStaging final : public StagingPipeline {
 public:
  explicit CudaStaging(CudaDevice& device) : device_(device) {}
  ~CudaStaging() override;
  CudaStaging(const CudaStaging&) = delete;
  CudaStaging& operator=(const CudaStaging&) = delete;

  // A stream of the caller's: what it holds so far comes before the call, what is put into it from
  // join() on comes after it.
  void add(CudaStream stream);

  // Who uses a result is on a stream that nobody has told of: the call is over when the copies are.
  void finish_on_host() { on_host_ = true; }

  // Memory that views point into. Kept until it was joined, or no copy uses it any more.
  void hold(std::shared_ptr<void> keep) { keep_ = std::move(keep); }

 private:
  static_assert(kSlots <= CudaDevice::Slots::kMost);

  std::byte* open(std::size_t slots, std::size_t slot_bytes) override;
  void bring(std::size_t slot, const std::vector<Copy>& copies) override;
  bool brought(std::size_t slot) override { return device_.reached(slots_->arrived[slot]); }
  void carry(std::size_t slot, const std::vector<Copy>& copies, bool last) override;
  void follow(std::size_t slot) override;
  bool carried(std::size_t slot) override {
    return !on_host_ || device_.reached(slots_->carried[slot]);
  }

  CudaDevice& device_;
  std::vector<CudaStream> streams_;
  bool on_host_ = false;
  std::shared_ptr<void> keep_;
  std::unique_ptr<CudaDevice::Slots> slots_;
  std::atomic<bool> joined_{false};
};

}  // namespace quoit
