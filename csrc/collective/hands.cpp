#include "collective/hands.h"

#include "collective/device_hands.h"

namespace quoit {

bool Settled::settled() {
  try {
    return device_->settled();
  } catch (...) {
    error_ = std::current_exception();
    return true;
  }
}

Hands::Hands(DeviceHands& device) : net_(&device.network()), tag_(kDeviceTag), device_(&device) {}

Transfer Hands::send_from_device(int to, ConstBytes data) const { return device_->send(to, data); }

Transfer Hands::recv_on_device(int from, Bytes into) const {
  Transfer receive = net_->recv(from, tag_, into, Fit::Device);
  receive.open();
  return receive;
}

void Hands::copy_on_device(const std::byte* from, std::byte* to, std::size_t bytes) const {
  device_->copy(from, to, bytes);
}

void Hands::reduce_on_device(DType dtype, const ReduceStep& step,
                             std::span<const std::byte* const> in, std::byte* out,
                             std::size_t count) const {
  device_->reduce(dtype, step, in, out, count);
}

}  // namespace quoit
