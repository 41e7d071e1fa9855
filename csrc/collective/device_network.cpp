#include "collective/device_network.h"

#include "core/log.h"

namespace quoit {
namespace {

// A call on a device is over when it is in its streams, or, where nobody knows the stream of who
// uses the results, when the device has come to that.
Task finish(std::shared_ptr<DeviceOrder> order, DeviceStream& stream, std::shared_ptr<int> count) {
  order->finish(stream);
  if (!order->finished_on_host()) co_return;
  Finished finished(*order, std::move(count));
  co_await finished;
}

}  // namespace

// Waits until all earlier messages to that rank have been sent, or were given up.
class DeviceNetwork::Turn final : public Pollable {
 public:
  Turn(std::deque<std::shared_ptr<Work>>& line, const Work& mine, int to)
      : line_(line), mine_(mine), to_(to) {}

  bool ready() override {
    while (line_.front().get() != &mine_ && line_.front()->done()) line_.pop_front();
    return line_.front().get() == &mine_;
  }
  [[nodiscard]] bool awaits(int /*rank*/) const override { return false; }
  [[nodiscard]] std::string awaited() const override {
    return text("this rank's accelerator, which has not come to an earlier message to rank ", to_);
  }
  void result() const {}

 private:
  std::deque<std::shared_ptr<Work>>& line_;
  const Work& mine_;
  const int to_;
};

DeviceNetwork::DeviceNetwork(Network& network, DeviceReach reach, std::string where)
    : network_(network), reach_(reach), where_(std::move(where)) {}

DeviceNetwork::~DeviceNetwork() = default;

std::string_view DeviceNetwork::route() const {
  const std::scoped_lock lock(mutex_);
  return reach_ == DeviceReach::None || lacking_ ? "host" : "mpi";
}

// Why it cannot, or nothing.
std::string DeviceNetwork::open(const DeviceOrder& order, std::unique_ptr<DeviceHands>& hands) {
  try {
    if (std::string why = order.foreign(); !why.empty()) return why;
    const auto* const kernels = reach_ == DeviceReach::Adds ? &cuda::kernels() : nullptr;
    hands = std::make_unique<DeviceHands>(network_, CudaDevice::numbered(order.device()), kernels,
                                          order.new_stream());
    return {};
  } catch (const std::exception& error) {  // torch's, too
    return error.what();
  }
}

DeviceHands* DeviceNetwork::hands(const DeviceOrder& order, DeviceReach needed) {
  if (reach_ < needed) return nullptr;
  const std::scoped_lock lock(mutex_);
  const auto [place, first] = hands_.try_emplace(order.device());
  std::unique_ptr<DeviceHands>& hands = place->second;
  if (first) {
    const std::string why = open(order, hands);
    lacking_ = lacking_ || !why.empty();
    if (!why.empty() && log::debug())
      log::write(text("[quoit ", where_, "] memory of device ", order.device(),
                      " goes by way of the host, not over MPI: ", why));
  }
  if (hands) last_ = hands.get();
  return hands.get();
}

bool DeviceNetwork::progress() {
  const CudaDevice::Current here(last_.load()->device());
  return network_.progress();
}

Task DeviceNetwork::in_order(DeviceHands& hands, std::shared_ptr<DeviceOrder> order, Task task,
                             std::shared_ptr<int> count) {
  {
    Called called(*order, count);
    co_await called;
  }
  order->start(hands.stream());
  // What an earlier call has left there may still use the workspace.
  co_await Hands(hands).settled();
  co_await std::move(task);
  co_await finish(order, hands.stream(), std::move(count));
}

Task DeviceNetwork::send(DeviceHands& hands, std::shared_ptr<DeviceOrder> order,
                         std::shared_ptr<Work> work, int to, Tag tag, View data,
                         std::shared_ptr<int> count) {
  std::deque<std::shared_ptr<Work>>& line = lines_[to];
  line.push_back(work);
  {
    Called called(*order, count);
    co_await called;
  }
  Turn turn(line, *work, to);
  co_await turn;
  line.pop_front();
  Transfer sent = hands.send(to, tag, data.raw());
  co_await sent;
  order->start(hands.stream());
  co_await finish(order, hands.stream(), std::move(count));
}

// The receive is there from the call on, as they match in that order.
Task DeviceNetwork::receive(DeviceHands& hands, std::shared_ptr<DeviceOrder> order, int from,
                            Tag tag, View into, Work& told, std::shared_ptr<int> count) {
  Transfer arrived = network_.recv(from, tag, into.raw(), Fit::Device);
  {
    Called called(*order, count);
    co_await called;
  }
  arrived.open();
  told.set_source(co_await arrived);
  order->start(hands.stream());
  // What came before its receive, or from a rank of this host, is in memory of the host.
  if (arrived.whole().data() != nullptr)
    hands.device().put(arrived.whole(), into.data, hands.stream().handle);
  co_await finish(order, hands.stream(), std::move(count));
}

}  // namespace quoit
