#pragma once
// Messages between devices of one host. The sender announces a message under its tag, the receiver
// that has matched it says in what turn it comes, and its bytes go, piece by piece, through two
// slots on the sender's device that are of this direction between this pair alone. Both sides only
// put work into a stream that is of this direction, too: so messages to and from several ranks, and
// collectives, go on side by side.
#include <map>
#include <memory>

#include "collective/device_lane.h"
#include "engine/task.h"
#include "engine/work.h"
#include "transport/network.h"

namespace quoit {

class DeviceEdges {
 public:
  // What a DeviceOrder makes streams for.
  DeviceEdges(CudaDevice& device, const cuda::KernelSet& kernels, Network& network);
  ~DeviceEdges();
  DeviceEdges(const DeviceEdges&) = delete;
  DeviceEdges& operator=(const DeviceEdges&) = delete;

  // `count` is of those that wait for their device: see Finished.
  Task send(std::shared_ptr<DeviceOrder> order, int to, Tag tag, View data,
            std::shared_ptr<int> count);

  // `from` may be kAnySource; `told` gets who it was, unless it is null.
  Task receive(std::shared_ptr<DeviceOrder> order, int from, Tag tag, View into, Work* told,
               std::shared_ptr<int> count);

  // Moves all that others may still use into what the group leaves.
  void leave(CudaLegacy& legacy);

 private:
  struct Edge;
  class Turn;

  Edge& edge(bool outgoing, int peer, const DeviceOrder& order);
  Task move(Edge& edge, bool outgoing, int peer, View data);

  CudaDevice& device_;
  const cuda::KernelSet& kernels_;
  Network& network_;
  std::map<std::pair<bool, int>, std::unique_ptr<Edge>> edges_;
};

}  // namespace quoit
