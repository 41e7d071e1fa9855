#pragma once
// The compressed collectives of device_sra.h between devices of one host, whose exchanges go
// through the slots of device_lane.h.
#include <functional>
#include <memory>

#include "collective/device_lane.h"
#include "collective/device_sra.h"

namespace quoit {

// Runs `work` in the lane's stream, and owns it; over when all is there. Ranks compare their calls
// in the first exchange, or, if there is none, at the end.
Task over_lane(DeviceLane& lane, Call call, std::shared_ptr<CompressionReport> report,
               std::function<Task(DeviceRun&)> work);

}  // namespace quoit
