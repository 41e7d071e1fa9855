#pragma once
// How what is longer than a slot goes through slots: window by window, or cut into a block for each
// of the other ranks.
#include <algorithm>
#include <vector>

#include "core/types.h"

namespace quoit {

// Rounds that follow each other.
struct Rounds {
  std::size_t first;
  std::size_t count;
};

// The part of `view` that these rounds carry when each holds `span` elements; that round k does.
inline View window(View view, Rounds rounds, std::size_t span) {
  const std::size_t begin = std::min(rounds.first * span, view.count);
  return view.at({begin, std::min(rounds.count * span, view.count - begin)});
}
inline View window(View view, std::size_t k, std::size_t span) {
  return window(view, Rounds{k, 1}, span);
}

// Rounds that carry `count` elements, `span` each; at least one, so that ranks always compare
// calls.
inline std::size_t rounds_for(std::size_t count, std::size_t span) {
  return std::max<std::size_t>(1, ceil_div(count, span));
}

inline std::size_t longest(const std::vector<View>& views) {
  std::size_t count = 0;
  for (const View& view : views) count = std::max(count, view.count);
  return count;
}

// Of the views of ranks below `rank`.
inline std::size_t bytes_before(const std::vector<View>& views, int rank) {
  std::size_t bytes = 0;
  for (int r = 0; r < rank; ++r) bytes += views[static_cast<std::size_t>(r)].bytes();
  return bytes;
}

// Elements of a block when a slot of `bytes` has one for each of `ranks` but its holder, in whole
// lines of so many bytes.
inline std::size_t block_span(std::size_t bytes, int ranks, std::size_t line, DType dtype) {
  const auto others = static_cast<std::size_t>(std::max(ranks - 1, 1));
  return std::max<std::size_t>(bytes / others / line * line / size_of(dtype), 1);
}

// Which block of `holder`'s slot is meant for `owner`, another rank.
inline std::size_t block_for(int owner, int holder) {
  return static_cast<std::size_t>(owner < holder ? owner : owner - 1);
}

}  // namespace quoit
