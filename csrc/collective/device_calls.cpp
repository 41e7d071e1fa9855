// What a communicator does with calls on memory of devices, where the ranks can do without the
// host's.
#include "collective/communicator.h"

namespace quoit {

// Goes on when it is known how the ranks can talk, which takes all of them the first time.
void Communicator::settle(const Call& call, Task task, const CallOptions& options,
                          Engine::Order order) {
  CallOptions own;
  own.timeout = options.timeout;
  const Handle work = begin(call, own);
  engine_.submit(*this, work, std::move(task), order, Engine::Mode::Foreground);
  engine_.wait(*work);
}

// Null: the call goes by way of the host.
DeviceLane* Communicator::lane_for(Call& call, CallOptions& options) {
  if (!options.device || over_.reach() != DeviceReach::None) return nullptr;
  call.staged = 1;
  DeviceLane* lane = nullptr;
  if (devices_.introduce(*options.device)) {
    if (!devices_.knows()) settle(call, devices_.meet(call), options, Engine::Order::AtOnce);
    // Somebody makes another call: this one's turn on the board tells everybody.
    if (!devices_.knows()) settle(call, greeting(call), options, Engine::Order::InTurn);
    lane = devices_.lane();
  }
  if (lane == nullptr) {
    options.device.reset();
    return nullptr;
  }
  options.staging.reset();
  return lane;
}

DeviceEdges* Communicator::edges_for(CallOptions& options) {
  if (!options.device) return nullptr;
  if (!devices_.introduce(*options.device)) {
    options.device.reset();
    return nullptr;
  }
  options.staging.reset();
  options.device->call();
  return &devices_.edges();
}

// The device's, or the host's.
Hands Communicator::hands_of_device(Call& call, CallOptions& options, DeviceReach needed) {
  DeviceHands* const hands = over_network(options, needed);
  if (hands == nullptr) return *us_.network;
  call.staged = 2;
  return Hands(*hands);
}

// Null: the call goes by way of the host.
DeviceHands* Communicator::over_network(CallOptions& options, DeviceReach needed) {
  if (!options.device || over_.reach() == DeviceReach::None) return nullptr;
  DeviceHands* const hands = over_.hands(*options.device, needed);
  if (hands == nullptr) {
    options.device.reset();
    return nullptr;
  }
  options.staging.reset();
  options.device->call();
  return hands;
}

// Not a call of its own, which would have a number: what rounds at random goes by the numbers of
// calls, and would round otherwise than in a group that was not asked.
std::string Communicator::device_obstacle(const DeviceOrder& order) {
  if (devices_.introduce(order) && !devices_.knows()) {
    const Call next{0, sequence_ + 1, -1, Op::CompressedAllReduce, DType::UInt8, ReduceOp::Sum, 1};
    const CallOptions options;
    settle(next, devices_.meet(next, /*asked=*/true), options, Engine::Order::AtOnce);
    if (!devices_.knows()) {
      const Call call = next_call(next.op, next.dtype, next.count);
      settle(call, greeting(call), options, Engine::Order::InTurn);
    }
  }
  return devices_.lacking();
}

Communicator::Handle Communicator::launch(const Call& call, CallOptions& options, DeviceLane& lane,
                                          Task task, bool on_host) {
  options.device->call();
  on_host |= options.device->finished_on_host();
  return start(call, in_order(options.device, lane.stream(), std::move(task), on_host, arrivals_),
               options);
}

Task Communicator::in_order(std::shared_ptr<DeviceOrder> order, DeviceStream& stream, Task task,
                            bool on_host, std::shared_ptr<int> arrivals) {
  order->start(stream);
  co_await std::move(task);
  order->finish(stream);
  if (!on_host) co_return;
  Finished finished(*order, std::move(arrivals));
  co_await finished;
}

}  // namespace quoit
