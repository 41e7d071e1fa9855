#include "collective/device_compressed.h"

#include "collective/device_direct.h"

namespace quoit {
namespace {

unsigned blocks_for(const DeviceLane& lane) {
  const CudaDevice::Current here(lane.device());
  return codec_blocks(lane.kernels());
}

}  // namespace

Task over_lane(DeviceLane& lane, Call call, std::shared_ptr<CompressionReport> report,
               std::function<Task(DeviceRun&)> work) {
  cuda::Launch launch = lane.stream().launch();
  launch.most_blocks = blocks_for(lane);
  bool compared = false;
  const auto exchange = [&](DeviceExchange all) {
    compared = true;
    const View mine = all.given[static_cast<std::size_t>(lane.rank())];
    return all.to_all ? device_all_gather(lane, call, mine, std::move(all.taken))
                      : device_all_to_all(lane, call, std::move(all.given), std::move(all.taken),
                                          /*uneven=*/false);
  };
  DeviceRun on{lane.kernels(), launch, exchange, *report, &lane.device()};
  co_await work(on);
  if (!compared) co_await device_barrier(lane, call);
}

}  // namespace quoit
