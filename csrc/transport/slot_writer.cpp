#include "transport/slot_writer.h"

#include "core/copy.h"

namespace quoit {

void SlotWriter::begin(Op op, std::size_t bytes) {
  kind_ = &kinds_[static_cast<std::size_t>(op) * kSizes + size_kind(bytes, kFirstSize, kSizes)];
  op_ = op;
  bytes_ = bytes;
  way_ = kind_->way;
  timed_ = false;
}

SlotWriter::Way SlotWriter::decide(bool readable) {
  const bool streams = bytes_ >= kWorthStreaming;
  // An all_reduce has everything read twice, which is all its slots take.
  const std::size_t worth = op_ == Op::AllReduce ? kWorthReadingTwice : kWorthReading;
  const bool stays = readable && bytes_ >= worth;
  if (!streams && !stays) return Way::Plain;
  timed_ = kind_->trials.wants(static_cast<std::size_t>(way_));
  if (timed_) since_ = Clock::now();
  using Ways = Trials<kWays>;
  return static_cast<Way>(kind_->trials.next(
      {true, streams, stays}, bytes_ >= kLeavesCaches ? Ways::kFewProbes : Ways::kProbe));
}

void SlotWriter::record(double seconds) {
  kind_->trials.record(static_cast<std::size_t>(way_), seconds / static_cast<double>(bytes_));
}

void SlotWriter::put(const std::byte* from, std::byte* slot, std::size_t bytes) const {
  if (way_ == Way::Streaming)
    stream_bytes(from, slot, bytes);
  else
    copy_bytes(from, slot, bytes);
}

}  // namespace quoit
