#pragma once
// What the ranks of a group do with memory of devices directly, by CUDA IPC: whether they can, and
// by what. A rank tells the others when it first uses a device in the group; what one lacks, all
// lack, and then calls go by way of the host.
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "collective/device_edges.h"
#include "collective/device_lane.h"
#include "transport/host_segment.h"

namespace quoit {

class DeviceGroup {
 public:
  // For a group of `size` ranks. All outlive it, and no task of its lane or edges does.
  DeviceGroup(HostSegment& segment, Network& network, int size, std::string where);
  ~DeviceGroup();
  DeviceGroup(const DeviceGroup&) = delete;
  DeviceGroup& operator=(const DeviceGroup&) = delete;

  // Tells the others of this rank's device, at the first call; afterwards, throws UsageError if
  // `order` is on another. Whether this rank has what it takes. From any thread.
  bool introduce(const DeviceOrder& order);

  // Whether it is known how collectives can go.
  [[nodiscard]] bool knows() const { return known_; }

  // Opens what others have offered meanwhile: they wait for it, whatever this rank waits for. Under
  // the engine's lock.
  bool progress() { return opening_.load(std::memory_order_relaxed) && open_offers(); }

  // Finds out; after introduce(), under the engine's lock. It remains unknown if a rank makes
  // another collective than `call` meanwhile. `asked`: ahead of the collective with `call`'s
  // number, to which a rank that has the answer may go on.
  Task meet(Call call, bool asked = false);

  // "ipc" or "host": how collectives go; "" while it is not known. From any thread.
  [[nodiscard]] std::string_view route();

  // Why they go by way of the host, or nothing: when it is known, or this rank lacks something.
  // From any thread.
  [[nodiscard]] std::string lacking();

  // When it is known: what serves the group's collectives, or null.
  [[nodiscard]] DeviceLane* lane() { return usable_ ? lane_.get() : nullptr; }

  // What serves messages, after introduce().
  [[nodiscard]] DeviceEdges& edges() { return *edges_; }

  // The group takes no more calls: nothing of other ranks is opened any more.
  void leave();

 private:
  class Meeting;
  class Heard;
  class Judged;

  [[nodiscard]] bool forked() const;
  [[nodiscard]] std::string lacks(const DeviceOrder& order);
  bool open_offers();
  void open(int peer);
  [[nodiscard]] std::string obstacle(int a, int b) const;
  void tell(const std::string& obstacle);

  const int process_;
  HostSegment& segment_;
  Introductions& others_;
  Network& network_;
  const int size_;
  const std::string where_;
  std::mutex mutex_;  // guards what follows, but for what the engine's lock guards
  bool introduced_ = false;
  std::string lack_;      // of this rank
  std::string obstacle_;  // of all
  int number_ = -1;       // of the device
  std::set<std::string> told_;
  std::atomic<bool> opening_{false};  // others may still offer
  std::atomic<bool> known_{false};
  bool usable_ = false;

  CudaDevice* device_ = nullptr;
  const cuda::KernelSet* kernels_ = nullptr;
  std::unique_ptr<DeviceStream> stream_;
  std::unique_ptr<CudaScratch> scratch_;
  std::map<int, std::unique_ptr<CudaWindow>> windows_;
  std::unique_ptr<DeviceLane> lane_;
  std::unique_ptr<DeviceEdges> edges_;
};

}  // namespace quoit
