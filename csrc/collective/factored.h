#pragma once
// Low-rank parts in a compressed all_reduce: their factors travel with the tiles of the others.
#include <functional>

#include "collective/compressed.h"

namespace quoit {

// Sums tiles over the ranks, in place.
using SumTiles = std::function<Task(std::vector<Tile>)>;

// `tiles` are those of `data`, cut as by.how says.
Task all_reduce_with_factors(View data, std::vector<Tile> tiles, Compressor by, SumTiles sum);

}  // namespace quoit
