#include "collective/factored.h"

#include <utility>

#include "compress/factoring.h"
#include "engine/breath.h"

namespace quoit {
namespace {

// The memory holds the factors of each, and behind them room for all that is sent: together, so
// that it goes in few messages.
std::vector<Factoring> matrices_of(View data, const Compressor& by, float*& room) {
  std::size_t floats = 0;
  for (const Part& part : by.how->parts()) {
    if (!part.matrix) continue;
    const auto sent = static_cast<std::size_t>(Factoring::exchanges(*part.matrix));
    floats += (Factoring::kFactors + sent) * Factoring::floats(*part.matrix);
  }
  room = reinterpret_cast<float*>(by.workspace->factors.get(floats * sizeof(float)));
  std::vector<Factoring> matrices;
  for (const Part& part : by.how->parts()) {
    if (!part.matrix) continue;
    matrices.emplace_back(part, data.at(part.where), by.terms, room);
    room += Factoring::kFactors * Factoring::floats(*part.matrix);
  }
  return matrices;
}

}  // namespace

Task all_reduce_with_factors(View data, std::vector<Tile> tiles, Compressor by, SumTiles sum) {
  std::erase_if(tiles, [](const Tile& tile) { return tile.of_matrix; });
  float* room = nullptr;
  std::vector<Factoring> matrices = matrices_of(data, by, room);
  const auto timed = [&by](const auto& step) {
    const Timed time(*by.report);
    step();
    return Breath();
  };
  for (int exchange = 0;; ++exchange) {
    std::vector<Factoring*> sent;
    for (Factoring& matrix : matrices)
      if (exchange < matrix.exchanges()) sent.push_back(&matrix);
    for (Factoring* matrix : sent) co_await timed([&] { matrix->begin(exchange); });
    for (Factoring* matrix : sent) {
      for (std::size_t i = 0; i < matrix->stripes(); ++i)
        co_await timed([&] { matrix->multiply(i); });
      const View factor = matrix->give(room);
      cut_factor(factor, matrix->codec(), tiles);
      room += factor.count;
    }
    if (tiles.empty()) break;
    co_await sum(std::exchange(tiles, {}));
    for (Factoring* matrix : sent) matrix->take();
  }
  for (Factoring& matrix : matrices) {
    for (std::size_t i = 0; i < matrix.stripes(); ++i) co_await timed([&] { matrix.restore(i); });
    matrix.end();
  }
}

}  // namespace quoit
