#pragma once
// What collectives made of messages work with: how their messages go, and how memory is copied and
// added up. That of the host at once; that of a device by work that is put into a stream, and that
// the device must have come to before a message may use the memory.
#include <exception>
#include <memory>
#include <span>

#include "core/copy.h"
#include "engine/task.h"
#include "kernels/reduce.h"
#include "transport/network.h"

namespace quoit {

class DeviceHands;

// Waits until the device has come to all that was put into its stream; on the host there is nothing
// to wait for.
class Settled final : public Pollable {
 public:
  explicit Settled(DeviceHands* device) : device_(device) {}

  bool ready() override { return device_ == nullptr || settled(); }
  [[nodiscard]] bool awaits(int /*rank*/) const override { return false; }
  [[nodiscard]] std::string awaited() const override {
    return "this rank's accelerator, which has not come to the sums of this call";
  }
  void result() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  bool settled();

  DeviceHands* const device_;
  std::exception_ptr error_;
};

// Passed by value; what it refers to outlives the collective. Every rank of a group has the same
// kind, in every call. Before a message reads or writes memory that copy() or reduce() used,
// settled() must be awaited.
class Hands {
 public:
  // On memory of the host.
  Hands(Network& net, Tag tag = kCollectiveTag)  // NOLINT(google-explicit-constructor)
      : net_(&net), tag_(tag) {}

  // On memory of that device.
  explicit Hands(DeviceHands& device);

  [[nodiscard]] DeviceHands* device() const { return device_; }
  [[nodiscard]] int rank() const { return net_->rank(); }
  [[nodiscard]] int size() const { return net_->size(); }

  [[nodiscard]] Transfer send(int to, ConstBytes data) const {
    return device_ == nullptr ? net_->send(to, tag_, data) : send_from_device(to, data);
  }

  // On a device, `fit` is as if Exact.
  [[nodiscard]] Transfer recv(int from, Bytes into, Fit fit = Fit::Exact) const {
    return device_ == nullptr ? net_->recv(from, tag_, into, fit) : recv_on_device(from, into);
  }
  [[nodiscard]] Exchange exchange(int to, ConstBytes out, int from, Bytes in,
                                  Fit fit = Fit::Exact) const {
    Transfer receive = recv(from, in, fit);
    return {send(to, out), std::move(receive)};
  }

  // As copy_bytes().
  void copy(const std::byte* from, std::byte* to, std::size_t bytes) const {
    if (device_ == nullptr)
      copy_bytes(from, to, bytes);
    else
      copy_on_device(from, to, bytes);
  }

  // As quoit::reduce(); numbers on a device must be aligned.
  void reduce(DType dtype, const ReduceStep& step, std::span<const std::byte* const> in,
              std::byte* out, std::size_t count) const {
    if (device_ == nullptr)
      quoit::reduce(dtype, step, in, out, nullptr, count);
    else
      reduce_on_device(dtype, step, in, out, count);
  }

  [[nodiscard]] Settled settled() const { return Settled(device_); }

 private:
  [[nodiscard]] Transfer send_from_device(int to, ConstBytes data) const;
  [[nodiscard]] Transfer recv_on_device(int from, Bytes into) const;
  void copy_on_device(const std::byte* from, std::byte* to, std::size_t bytes) const;
  void reduce_on_device(DType dtype, const ReduceStep& step, std::span<const std::byte* const> in,
                        std::byte* out, std::size_t count) const;

  Network* net_;
  Tag tag_;
  DeviceHands* device_ = nullptr;
};

}  // namespace quoit
