#include "collective/device_factored.h"

#include <algorithm>

namespace quoit {

DeviceAllReduce::DeviceAllReduce(View data, std::shared_ptr<const Compression> how,
                                 const Terms& terms, int rank, int ranks, const DeviceRoom& room)
    : how_(std::move(how)), terms_(terms) {
  std::vector<Tile> tiles = cut_into_tiles(data, how_->parts());
  if (ranks > 1) {
    std::erase_if(tiles, [](const Tile& tile) { return tile.of_matrix; });
    std::size_t scratch = 0;
    for (const Part& part : how_->parts()) {
      if (!part.matrix) continue;
      scratch = std::max(scratch, DeviceFactoring::scratch(*part.matrix));
      matrices_.emplace_back(part, data.at(part.where), terms,
                             room(DeviceFactoring::room(*part.matrix), true));
    }
    if (scratch > 0) scratch_ = room(scratch, false);
  }
  for (int exchange = 0;; ++exchange) {
    for (const DeviceFactoring& matrix : matrices_)
      if (exchange < matrix.exchanges()) cut_factor(matrix.sent(exchange), matrix.codec(), tiles);
    if (tiles.empty()) break;
    const auto chunks = share_out(tiles, {0, tiles.size()}, static_cast<std::size_t>(ranks));
    rounds_.emplace_back(tiles, chunks, SraStages::Both, rank);
    tiles.clear();
  }
  std::size_t most = 0;
  for (const DeviceSra& round : rounds_) most = std::max(most, round.room());
  if (most > 0) room_ = room(most, false);
  if (matrices_.empty()) return;  // or there is one rank, and no factor is sent
  for (const Part& part : how_->parts())
    if (part.matrix) *part.matrix->turn += 1;
}

Task DeviceAllReduce::run(std::uint64_t seed, DeviceRun& on) const {
  Terms terms = terms_;
  terms.seed = seed;
  for (std::size_t i = 0; i < rounds_.size(); ++i) {
    const int exchange = static_cast<int>(i);
    {
      const Launching now(on);
      for (const DeviceFactoring& matrix : matrices_)
        if (exchange < matrix.exchanges()) matrix.give(exchange, scratch_, on.kernels, on.launch);
    }
    co_await rounds_[i].run(room_, terms, on);
  }
  const Launching now(on);
  for (const DeviceFactoring& matrix : matrices_) matrix.restore(on.kernels, on.launch);
}

}  // namespace quoit
