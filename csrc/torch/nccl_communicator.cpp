#include "torch/nccl_communicator.h"

#include <thread>
#include <utility>

#include "core/error.h"

namespace quoit {
namespace {

bool begun(NcclResult result) { return result == kNcclSuccess || result == kNcclInProgress; }

}  // namespace

NcclCommunicator::NcclCommunicator(const NcclLibrary& library, const NcclUniqueId& id, int size,
                                   int rank, c10::Device device)
    : library_(library),
      stream_(c10::impl::VirtualGuardImpl(device.type())
                  .getStreamFromGlobalPool(device, /*isHighPriority=*/true)) {
  const c10::DeviceGuard guard(device);
  NcclConfig config;
  config.blocking = 0;
  library_.check(library_.calls.comm_init_rank_config(&comm_, size, id, rank, &config),
                 "ncclCommInitRankConfig", nullptr);
}

bool NcclCommunicator::settled() {
  NcclResult state = kNcclSuccess;
  check(library_.calls.comm_get_async_error(comm_, &state), "ncclCommGetAsyncError");
  check(state, "NCCL reports");
  return state == kNcclSuccess;
}

void NcclCommunicator::begin_to_end() {
  const c10::DeviceGuard guard(stream_.device());
  ending_ = comm_ != nullptr && begun(library_.calls.comm_finalize(comm_));
}

void NcclCommunicator::end(Deadline deadline) {
  try {
    while (ending_ && !settled() && !deadline.passed())
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    if (ending_ && settled()) library_.calls.comm_destroy(std::exchange(comm_, nullptr));
  } catch (const Error&) {  // it has failed, perhaps because of others that left
  }
  abort();
}

void NcclCommunicator::abort() noexcept {
  if (comm_ != nullptr) library_.calls.comm_abort(std::exchange(comm_, nullptr));
}

}  // namespace quoit
