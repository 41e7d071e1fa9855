#pragma once
// The order of a call on arrays of a CUDA device, without torch: by the streams that they tell. The
// sibling for torch is torch/tensor_order.h.
#include <atomic>
#include <memory>
#include <vector>

#include "collective/cuda_device.h"
#include "collective/device_order.h"

namespace quoit {

class CudaOrder final : public DeviceOrder {
 public:
  explicit CudaOrder(CudaDevice& device) : device_(device) {}
  ~CudaOrder() override;
  CudaOrder(const CudaOrder&) = delete;
  CudaOrder& operator=(const CudaOrder&) = delete;

  // As CudaStaging has them.
  void add(CudaStream stream);
  // A stream that holds what must come before the call, and is no concern of it afterwards.
  void add_before(CudaStream stream) { before_.push_back(stream); }
  // Who uses the arrays afterwards is on a stream that nobody has told of.
  void finish_on_host() { on_host_ = true; }
  void hold(std::shared_ptr<void> keep) { keep_ = std::move(keep); }

  [[nodiscard]] int device() const override { return device_.number; }
  [[nodiscard]] std::string foreign() const override { return {}; }
  [[nodiscard]] std::unique_ptr<DeviceStream> new_stream() const override;
  void call() override;
  bool called() override;
  void start(DeviceStream& stream) override;
  void finish(DeviceStream& stream) override;
  [[nodiscard]] bool finished_on_host() const override { return on_host_; }
  bool finished() override { return device_.reached(end()); }
  void join() override;

 private:
  [[nodiscard]] CudaEvent end() const { return marks_->carried[0]; }

  CudaDevice& device_;
  std::vector<CudaStream> streams_;
  std::vector<CudaStream> before_;
  std::vector<CudaEvent> called_;  // of each of both
  bool on_host_ = false;
  std::shared_ptr<void> keep_;
  std::unique_ptr<CudaDevice::Slots> marks_;
  CudaStream used_ = nullptr;  // since start()
  bool finished_ = false;
  std::atomic<bool> joined_{false};
};

}  // namespace quoit
