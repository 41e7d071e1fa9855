#include "collective/staging_pipeline.h"

#include <algorithm>

namespace quoit {

void StagingPipeline::begin(std::size_t pieces, const Touched& touched) {
  pieces_ = pieces;
  slots_ = std::min(pieces, kSlots);
  for (const View& view : touched.read) place(view, true, false);
  for (const View& view : touched.written) place(view, false, true);
  memory_ = open(slots_, slot_bytes_);
  for (std::size_t i = 0; i < slots_; ++i) bring(slot_of(i), copies(i, &Place::read));
}

void StagingPipeline::place(const View& view, bool read, bool written) {
  if (view.count == 0) return;
  for (Place& known : places_) {
    if (known.view.data != view.data || known.view.count != view.count) continue;
    known.read |= read;
    known.written |= written;
    return;
  }
  places_.push_back({view, read, written, slot_bytes_});
  const std::size_t longest = ceil_div(view.count, pieces_) * size_of(view.dtype);
  slot_bytes_ += ceil_div(longest, kCacheLine) * kCacheLine;
}

View StagingPipeline::here(std::size_t i, const Place& place) const {
  const Slice piece = Slice{0, place.view.count}.piece(pieces_, i);
  return {memory_ + slot_of(i) * slot_bytes_ + place.offset, piece.count, place.view.dtype};
}

View StagingPipeline::at(std::size_t i, const View& view) const {
  if (view.count == 0) return view;
  const auto place = std::find_if(places_.begin(), places_.end(), [&](const Place& known) {
    return known.view.data == view.data && known.view.count == view.count;
  });
  QUOIT_CHECK(place != places_.end(), UsageError, "staging: a view that its call has not told of");
  return here(i, *place);
}

std::vector<StagingPipeline::Copy> StagingPipeline::copies(std::size_t i,
                                                           bool Place::* concerned) const {
  std::vector<Copy> all;
  for (const Place& place : places_) {
    const View on_host = here(i, place);
    if (!(place.*concerned) || on_host.count == 0) continue;
    const View there = place.view.at(Slice{0, place.view.count}.piece(pieces_, i));
    all.push_back({on_host.data, there.data, there.bytes()});
  }
  return all;
}

bool StagingPipeline::arrived(std::size_t i) {
  return i < pieces_ ? brought(slot_of(i)) : carried(slot_of(pieces_ - 1));
}

void StagingPipeline::carry_back(std::size_t i) {
  carry(slot_of(i), copies(i, &Place::written), i + 1 == pieces_);
  if (const std::size_t next = i + slots_; next < pieces_)
    bring(slot_of(next), copies(next, &Place::read));
}

}  // namespace quoit
