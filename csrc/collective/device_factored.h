#pragma once
// A compressed all_reduce in memory of a CUDA device, low-rank parts and all: their factors travel
// with the tiles of the others, as in factored.h.
#include <memory>

#include "collective/device_order.h"
#include "collective/device_sra.h"
#include "compress/device_factoring.h"

namespace quoit {

class DeviceAllReduce {
 public:
  // `data` and what the parts keep lie on the device, apart from turns. All memory is asked for
  // here, and low-rank parts have their turn. `terms` are of all calls, but for the seed.
  DeviceAllReduce(View data, std::shared_ptr<const Compression> how, const Terms& terms, int rank,
                  int ranks, const DeviceRoom& room);

  // Once. This and `on` outlive the task.
  Task run(std::uint64_t seed, DeviceRun& on) const;

 private:
  const std::shared_ptr<const Compression> how_;
  const Terms terms_;
  std::vector<DeviceFactoring> matrices_;
  std::vector<DeviceSra> rounds_;  // one for each exchange
  std::byte* room_ = nullptr;      // of a round
  std::byte* scratch_ = nullptr;   // of a matrix
};

}  // namespace quoit
