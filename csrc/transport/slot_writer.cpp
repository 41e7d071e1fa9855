#include "transport/slot_writer.h"

#include <algorithm>
#include <bit>

#include "core/copy.h"

namespace quoit {

void SlotWriter::begin(Op op, std::size_t bytes) {
  timed_ = bytes >= kSmall;
  way_ = Way::Plain;
  if (!timed_) return;
  const auto size = static_cast<std::size_t>(std::bit_width(bytes / kSmall | 1) - 1);
  kind_ = &experiences_[static_cast<std::size_t>(op) * kSizes + std::min(size, kSizes - 1)];
  left_ = bytes;
  since_ = {};
  choose();
}

void SlotWriter::put(const std::byte* from, std::byte* slot, std::size_t bytes) const {
  if (way_ == Way::Streaming)
    stream_bytes(from, slot, bytes);
  else
    copy_bytes(from, slot, bytes);
}

void SlotWriter::record(std::size_t bytes, Clock::time_point now) {
  left_ -= std::min(left_, bytes);
  if (since_ == Clock::time_point{}) {
    since_ = now;
    measured_ = 0;
    return;
  }
  measured_ += bytes;
  if (measured_ == 0 || (measured_ < kTrial && left_ > 0)) return;
  const double found = Seconds(now - since_).count() / static_cast<double>(measured_);
  double& known = kind_->cost[static_cast<std::size_t>(way_)];
  // Nothing makes a trial shorter than it takes, but a lost core makes it longer: lower figures are
  // believed at once, higher ones by halves, and twofold at most.
  known = known == 0 || found < known ? found : (known + std::min(found, 2 * known)) / 2;
  since_ = now;
  measured_ = 0;
  if (left_ > 0) choose();
}

void SlotWriter::choose() {
  const auto [plain, streaming] = kind_->cost;
  const unsigned trial = kind_->trials++;
  if (trial < 2 * kProbe) {
    way_ = trial < kProbe ? Way::Plain : Way::Streaming;
  } else {
    const bool probes = trial % kCycle < kProbe;
    way_ = (streaming < plain) != probes ? Way::Streaming : Way::Plain;
  }
}

}  // namespace quoit
