#pragma once
// Messages between devices of one host; see announcement.h. Bytes go, piece by piece, through two
// slots on the sender's device that are of this direction between this pair alone. Both sides only
// put work into a stream that is of this direction, too: so messages to and from several ranks, and
// collectives, go on side by side. What the other side's memory does not allow goes by the host.
#include <functional>
#include <map>
#include <memory>

#include "collective/announcement.h"
#include "collective/device_lane.h"
#include "engine/task.h"
#include "engine/work.h"

namespace quoit {

class DeviceEdges {
 public:
  // `opened` is told of each rank whose memory is opened.
  DeviceEdges(CudaDevice& device, const cuda::KernelSet& kernels, Network& network,
              std::function<void(int rank)> opened);
  ~DeviceEdges();
  DeviceEdges(const DeviceEdges&) = delete;
  DeviceEdges& operator=(const DeviceEdges&) = delete;

  // `count` is of those that wait for their device: see Finished.
  Task send(std::shared_ptr<DeviceOrder> order, int to, Tag tag, View data,
            std::shared_ptr<int> count);

  // `from` may be kAnySource; `told` gets who it was.
  Task receive(std::shared_ptr<DeviceOrder> order, int from, Tag tag, View into, Work& told,
               std::shared_ptr<int> count);

  // Moves all that others may still use into what the group leaves.
  void leave(CudaLegacy& legacy);

 private:
  struct Edge;
  class Turn;
  class Reached;

  Edge& edge(bool outgoing, int peer, const DeviceOrder& order);
  bool learn(Edge& edge, int peer, const CudaOffer& offer);
  Task move(Edge& edge, bool outgoing, int peer, View data, bool* given_up);
  Task receive_announced(const std::shared_ptr<DeviceOrder>& order, int peer,
                         Announcement announced, View into);
  Task send_by_host(Edge& edge, int to, std::uint64_t number, View data,
                    std::shared_ptr<int> count);

  CudaDevice& device_;
  const cuda::KernelSet& kernels_;
  Network& network_;
  const std::function<void(int)> opened_;
  std::map<std::pair<bool, int>, std::unique_ptr<Edge>> edges_;
};

}  // namespace quoit
