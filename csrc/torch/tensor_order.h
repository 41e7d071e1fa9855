#pragma once
// The order of a call on tensors of a CUDA device, written against c10's streams and events: where
// its ranks can do without the host's memory.
#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <optional>
#include <utility>
#include <vector>

#include "collective/device_order.h"

namespace quoit {

class TensorOrder final : public DeviceOrder {
 public:
  explicit TensorOrder(c10::Device device) : device_(device) {}

  // As DeviceStaging has them.
  void add(const at::Tensor& tensor) { tensors_.push_back(tensor); }
  void copy_back(const at::Tensor& to, const at::Tensor& from) {
    copies_back_.emplace_back(to, from);
  }

  // See DeviceRoom; before call(), which it is like in what it throws, from the caller's thread.
  std::byte* room(std::size_t bytes, bool zeroed);

  [[nodiscard]] int device() const override { return device_.index(); }
  [[nodiscard]] std::string foreign() const override;
  [[nodiscard]] std::unique_ptr<DeviceStream> new_stream() const override;
  void call() override;
  bool called() override { return called_->query(); }
  void start(DeviceStream& stream) override;
  void finish(DeviceStream& stream) override;
  [[nodiscard]] bool finished_on_host() const override { return false; }
  bool finished() override { return finished_->query(); }
  void join() override;

 private:
  // Of the caller's thread; throws UsageError where it is being captured into a graph.
  [[nodiscard]] c10::Stream current() const;

  const c10::Device device_;
  std::vector<at::Tensor> tensors_;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies_back_;
  std::optional<c10::Event> called_;
  std::optional<c10::Event> finished_;
};

}  // namespace quoit
