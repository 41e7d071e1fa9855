#pragma once
// What the calls of one NCCL group share with the thread that watches over them.
#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <atomic>
#include <condition_variable>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "torch/key_store.h"
#include "torch/nccl_communicator.h"

namespace quoit {

// One operation. It is issued when it lies in its stream; send and recv may be called before.
struct NcclCall {
  NcclCall(c10d::OpType type, std::uint64_t sequence, const c10::Stream& stream, Seconds timeout)
      : type(type),
        sequence(sequence),
        stream(stream),
        timeout(timeout),
        deadline(Deadline::after(timeout)),
        end(stream.device_type()) {}

  // "all_reduce #3 float32[12]", for messages.
  [[nodiscard]] std::string said() const;

  // Whether the device has done it. Never asks in or after a capture, of which nobody can say.
  [[nodiscard]] bool done();

  const c10d::OpType type;
  const std::uint64_t sequence;
  int peer = -1;  // send and recv
  at::ScalarType dtype = at::kByte;
  std::int64_t count = -1;  // of elements; negative: of no tensor, or of several
  c10::Stream stream;       // once issued
  const Seconds timeout;
  const Deadline deadline;
  bool captured = false;
  c10::Event end;  // recorded once issued
  std::atomic<bool> issued{false};
  std::atomic<bool> over{false};    // done, before any failure
  std::atomic<bool> failed{false};  // was not done when the group failed
};

class NcclState {
 public:
  NcclState(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, std::string where);
  virtual ~NcclState() = default;
  NcclState(const NcclState&) = delete;
  NcclState& operator=(const NcclState&) = delete;

  const int rank, size;
  const std::string where;  // "rank 3 on node7"
  KeyStore store;

  // Held while NCCL is called, and while anything below changes that says so.
  std::mutex order;

  [[nodiscard]] bool failed() const { return failed_; }
  // Throws the first failure.
  void check() const;
  // The first failure counts: the watch aborts the communicators and tells the other ranks.
  void fail(const std::exception_ptr& error);

  // In a handler of what a call threw: throws the first failure, which may be another rank's.
  [[noreturn]] void fail_in_call();

  // From now on the watch waits for its end.
  void watch(const std::shared_ptr<NcclCall>& call);
  // Under `order`. The watch asks it for failures, and aborts it with the others.
  void add(const std::shared_ptr<NcclCommunicator>& communicator);

  // Waits until the device has done it. Throws when the group fails first, or at the deadline.
  void await_done(NcclCall& call, Deadline deadline);
  // Waits until it lies in its stream.
  void await_issued(NcclCall& call, Deadline deadline);
  // Throws if the call was not done when the group failed.
  void check(NcclCall& call) const;

  // Called by the watch; returns after how long it shall look again.
  Seconds look();
  // Tells the others of the failure and aborts what there is, once.
  void end_failed();
  // No more looks, nor calls. Ends the communicators in order until the deadline.
  void close(Deadline deadline);
  [[nodiscard]] bool closed() const { return closed_; }

  std::atomic<std::uint64_t> called{0};  // collectives, by this rank

 protected:
  // Under `order`: takes calls forward that wait to be issued. Whether there are any.
  virtual bool advance() { return false; }
  // Under `order`: forgets them.
  virtual void drop() {}
  // Its end is recorded: whoever waits for that goes on.
  void note_issued(NcclCall& call);

 private:
  void look_at_calls();
  void look_at_communicators();  // under `order`
  void hear();
  void heed_failed();
  void raise_alarm(const NcclCall& call);
  // Which ranks did not come to this call, as far as they say.
  std::string missing(std::uint64_t sequence);

  std::atomic<bool> failed_{false};
  std::atomic<bool> told_{false};  // others know of the failure, and all was aborted
  std::atomic<bool> closed_{false};
  mutable std::mutex mutex_;
  std::condition_variable changed_;                               // calls are issued, or all failed
  std::exception_ptr error_;                                      // guarded by mutex_
  std::list<std::shared_ptr<NcclCall>> calls_;                    // guarded by mutex_
  std::vector<std::shared_ptr<NcclCommunicator>> communicators_;  // guarded by mutex_

  // The watch's own.
  std::atomic<bool> heard_{false};  // the failure came from another rank
  bool answered_ = false;           // an alarm: others know where this rank is
  std::optional<Clock::time_point> alarm_;
  Clock::time_point next_hear_{};
};

// Begins to look after the state, or looks at once if it does.
void nccl_watch(const std::shared_ptr<NcclState>& state);

}  // namespace quoit
