#include "torch/tensor_order.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "torch/device_streams.h"
#include "transport/cuda_driver.h"

namespace quoit {
namespace {

using Guard = c10::impl::VirtualGuardImpl;

struct TensorStream final : DeviceStream {
  explicit TensorStream(c10::Stream of_torch)
      : DeviceStream(static_cast<CudaStream>(native_handle(of_torch))), stream(of_torch) {}

  const c10::Stream stream;
};

c10::Stream stream_of(const DeviceStream& stream) {
  return static_cast<const TensorStream&>(stream).stream;
}

}  // namespace

// Of another kind of device whose memory CUDA's driver knows all the same, it may be.
std::string TensorOrder::foreign() const {
  if (device_.is_cuda()) return {};
  const at::Tensor probe = at::empty({1}, at::TensorOptions(at::kByte).device(device_));
  int number = -1;
  const CudaResult result = CudaDriver::load().calls.pointer_get_attribute(
      &number, kCudaPointerDeviceOrdinal, reinterpret_cast<CudaAddress>(probe.data_ptr()));
  if (result == CudaResult::Success && number == device_.index()) return {};
  return device_.str() + " is no CUDA device";
}

std::unique_ptr<DeviceStream> TensorOrder::new_stream() const {
  const Guard guard(device_.type());
  return std::make_unique<TensorStream>(
      guard.getStreamFromGlobalPool(device_, /*isHighPriority=*/true));
}

std::byte* TensorOrder::room(std::size_t bytes, bool zeroed) {
  static_cast<void>(current());
  const at::NoGradGuard no_grad;
  const at::Tensor made =
      at::empty({static_cast<std::int64_t>(bytes)}, at::TensorOptions(at::kByte).device(device_));
  if (zeroed) made.zero_();
  add(made);
  return static_cast<std::byte*>(made.data_ptr());
}

c10::Stream TensorOrder::current() const {
  const c10::Stream stream = Guard(device_.type()).getStream(device_);
  QUOIT_CHECK(!is_capturing(stream), UsageError, "a call on a tensor of ", device_.str(),
              " while its stream is captured into a graph: ranks tell each other by the host when ",
              "to go on, which a graph cannot hold. Call it outside, or use NCCL (QUOIT_NCCL)");
  return stream;
}

void TensorOrder::call() {
  called_.emplace(device_.type());
  called_->record(current());
}

void TensorOrder::start(DeviceStream& stream) {
  const c10::Stream ours = stream_of(stream);
  const Guard guard(device_.type());
  for (const at::Tensor& tensor : tensors_)
    guard.recordDataPtrOnStream(tensor.storage().data_ptr(), ours);
  called_->block(ours);
}

void TensorOrder::finish(DeviceStream& stream) {
  const c10::Stream ours = stream_of(stream);
  if (!copies_back_.empty()) {
    const at::NoGradGuard no_grad;
    const c10::StreamGuard on(ours);
    for (const auto& [to, from] : copies_back_) {
      Guard(device_.type()).recordDataPtrOnStream(to.storage().data_ptr(), ours);
      to.copy_(from, /*non_blocking=*/true);
    }
  }
  finished_.emplace(device_.type());
  finished_->record(ours);
}

void TensorOrder::join() { finished_->block(Guard(device_.type()).getStream(device_)); }

}  // namespace quoit
