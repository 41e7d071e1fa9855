#pragma once
// One communicator of NCCL, and the stream that its operations run on.
#include "core/clock.h"
#include "torch/device_streams.h"
#include "transport/nccl_library.h"

namespace quoit {

// Calls to NCCL on one communicator must not overlap, not even questions about its state, which end
// what was begun: callers hold their group's order.
class NcclCommunicator {
 public:
  // Begins to make one of `size` ranks, who all were given `id`, and does not wait for them.
  NcclCommunicator(const NcclLibrary& library, const NcclUniqueId& id, int size, int rank,
                   c10::Device device);
  ~NcclCommunicator() { abort(); }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  // Whether all that was asked for has been begun on the device; throws what NCCL reports.
  bool settled();

  // Ends it in order, when what is in flight is over, unless `deadline` comes first. All that are
  // to end begin to, before one waits: peers may end theirs in another order.
  void begin_to_end();
  void end(Deadline deadline);
  // Ends it at once, and what is in flight.
  void abort() noexcept;

  [[nodiscard]] NcclComm handle() const { return comm_; }
  [[nodiscard]] const NcclLibrary& library() const { return library_; }
  [[nodiscard]] const c10::Stream& stream() const { return stream_; }
  void check(NcclResult result, const char* what) const { library_.check(result, what, comm_); }

 private:
  const NcclLibrary& library_;
  const c10::Stream stream_;
  NcclComm comm_ = nullptr;
  bool ending_ = false;
};

}  // namespace quoit
