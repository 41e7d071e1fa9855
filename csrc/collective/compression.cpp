// The compressed collectives of a communicator.
#include "collective/communicator.h"
#include "collective/device_compressed.h"
#include "collective/device_factored.h"
#include "collective/factored.h"
#include "compress/factoring.h"
#include "core/copy.h"
#include "core/hash.h"

namespace quoit {
namespace {

// Residuals and random rounding aside, ranks must mean the same.
std::array<std::uint8_t, 4> digest_of(const std::vector<Part>& parts) {
  std::string said;
  for (const Part& part : parts) {
    said += text(part.where.count, " ", part.codec->name(), part.residual ? "+" : "");
    if (part.matrix)
      said += text(" ", name_of(*part.matrix), part.matrix->rows, "x", part.matrix->cols);
    said += ";";
  }
  return digest_of_text(said);
}

// That, and whose turn it is in low-rank parts.
std::array<std::uint8_t, 4> digest_now(const Compression& how) {
  Hash hash;
  for (const std::uint8_t byte : how.digest()) hash.take(byte);
  for (const Part& part : how.parts())
    if (part.matrix) hash.take(static_cast<std::uint64_t>(*part.matrix->turn));
  return hash.digest();
}

// The ranges of ring positions out of those of ranks.
std::vector<TileRange> in_ring_order(const std::vector<TileRange>& by_rank, const Ring& ring) {
  std::vector<TileRange> ranges;
  for (const int rank : ring.ranks) ranges.push_back(by_rank[static_cast<std::size_t>(rank)]);
  return ranges;
}

// What over_lane() runs for the blocks of a reduce_scatter or an all_gather.
std::function<Task(DeviceRun&)> sra_of_blocks(const std::vector<Tile>& tiles, const Compressor& by,
                                              SraStages stages, int rank, const DeviceRoom& room) {
  const auto sra = std::make_shared<const DeviceSra>(tiles, blocks_of(*by.how), stages, rank);
  return [sra, terms = by.terms, at = room(sra->room(), false)](DeviceRun& on) {
    return sra->run(at, terms, on);
  };
}

// Then what was summed in place goes where it shall be.
Task over_lane_into(DeviceLane& lane, Call call, std::shared_ptr<CompressionReport> report,
                    std::function<Task(DeviceRun&)> work, View sum, View out) {
  co_await over_lane(lane, call, std::move(report), std::move(work));
  lane.copy(sum.data, out.data, out.bytes());
}

// The same tiles of a copy of the buffer.
std::vector<Tile> moved(std::vector<Tile> tiles, const View& from, const View& to) {
  if (to.data != from.data)
    for (Tile& tile : tiles) tile.data.data = to.data + (tile.data.data - from.data);
  return tiles;
}

}  // namespace

void check_mean_or_sum(ReduceOp op) {
  QUOIT_CHECK(op == ReduceOp::Sum || op == ReduceOp::Avg, UsageError, "a compressed ", name_of(op),
              ": only SUM and AVG can be compressed; use another op, or no codec");
}

Terms terms_of(const CompressionTerms& how, const Reduction& reduction, int ranks) {
  Terms terms{.unit = how.unit, .seed = how.seed};
  if (reduction.op == ReduceOp::Avg) {
    terms.before = 1 / static_cast<float>(ranks);
    terms.after = static_cast<std::uint64_t>(ranks);
  }
  return terms;
}

std::vector<TileRange> blocks_of(const Compression& how) {
  std::vector<TileRange> blocks;
  std::size_t begin = 0;
  for (const Part& part : how.parts()) {
    blocks.push_back({begin, begin + ceil_div(part.where.count, kTile)});
    begin = blocks.back().end;
  }
  return blocks;
}

void check_blocks(const Compression& how, int ranks, const char* what) {
  QUOIT_CHECK(how.parts().size() == static_cast<std::size_t>(ranks), UsageError, what, ": got ",
              how.parts().size(), " blocks; give one for each of the ", ranks, " ranks");
  for (const Part& part : how.parts())
    QUOIT_CHECK(!part.matrix, UsageError, what, " with the codec ", name_of(*part.matrix),
                ": only an all_reduce has whole matrices; choose another codec");
}

void check_block(const Compression& how, int rank, const View& data, const View& out) {
  const Slice mine = how.parts()[static_cast<std::size_t>(rank)].where;
  QUOIT_CHECK(out.count == mine.count && out.dtype == data.dtype, UsageError,
              "compressed reduce_scatter: block ", rank, " of the input is ", name_of(data.dtype),
              "[", mine.count, "], the output ", name_of(out.dtype), "[", out.count,
              "]: they must be alike");
}

Compression::Compression(std::vector<Part> parts) : parts_(std::move(parts)) {
  for (const Part& part : parts_)
    if (part.matrix) check_low_rank(part);
  digest_ = digest_of(parts_);
}

Compressor Communicator::compressor(std::shared_ptr<const Compression> how,
                                    const CompressionTerms& terms, std::size_t plain_bytes) const {
  terms.report->calls += 1;
  terms.report->plain_bytes += plain_bytes;
  return {std::move(how), {}, workspace_, terms.report};
}

Communicator::Handle Communicator::compressed_all_reduce(View data,
                                                         std::shared_ptr<const Compression> how,
                                                         CompressionTerms terms,
                                                         Reduction reduction, CallOptions options) {
  check_mean_or_sum(reduction.op);
  std::vector<Tile> tiles = cut_into_tiles(data, how->parts());
  Call call = next_call(Op::CompressedAllReduce, data.dtype, data.count, -1, reduction.op);
  if (options.room) call.blocks = digest_now(*how);
  DeviceLane* const lane = options.room ? lane_for(call, options) : nullptr;
  const std::size_t pieces =
      begin_staging(options, 0, [&] { return Staging::Touched{{data}, {data}}; });
  const auto n = static_cast<std::size_t>(size());
  Compressor by = compressor(std::move(how), terms, 2 * data.bytes() * (n - 1) / n);
  by.terms = terms_of(terms, reduction, size());
  by.terms.seed += call.sequence;
  if (lane != nullptr) {
    const auto sum = std::make_shared<const DeviceAllReduce>(data, by.how, by.terms, rank(), size(),
                                                             options.room);
    const auto work = [sum, seed = by.terms.seed](DeviceRun& on) { return sum->run(seed, on); };
    return launch(call, options, *lane, over_lane(*lane, call, by.report, work));
  }
  auto make = [=, this, tiles = std::move(tiles), by = std::move(by)](const Call& call,
                                                                      const Piece& piece) mutable {
    return reduce_compressed(call, piece(data), moved(std::move(tiles), data, piece(data)),
                             std::move(by), terms.fingerprint);
  };
  return run(call, options, pieces, std::move(make));
}

Task Communicator::reduce_compressed(Call call, View data, std::vector<Tile> tiles, Compressor by,
                                     std::optional<std::uint64_t> fingerprint) {
  if (size() == 1) {  // nothing is sent, so nothing is lost
    for (const Tile& tile : tiles) settle_residual(tile, by.terms);
    co_return;
  }
  call.blocks = digest_now(*by.how);
  co_await greeting(call);
  const auto sum = [this, call, by](std::vector<Tile> some) {
    return shape_.hosts > 1 && shape_.ranks_per_host > 1 && !made_of_messages(us_.algorithm)
               ? hierarchical_sra(board(), *us_.network, lanes_, call, std::move(some), by)
               : sra_all_reduce(*us_.network, ring_, std::move(some), by);
  };
  co_await all_reduce_with_factors(data, std::move(tiles), by, sum);
  if (fingerprint)
    co_await compare_replicas(*us_.network, ring_, {hash_of(data.raw()), *fingerprint});
}

Communicator::Handle Communicator::compare(const ReplicaClaim& claim, CallOptions options) {
  const Call call{sizeof claim, sequence_, -1, Op::CompressedAllReduce, DType::UInt8};
  return start(call, compared(call, claim), options);
}

Task Communicator::compared(Call call, ReplicaClaim claim) {
  co_await greeting(call);
  co_await compare_replicas(*us_.network, ring_, claim);
}

Communicator::Handle Communicator::compressed_reduce_scatter(View data, View out,
                                                             std::shared_ptr<const Compression> how,
                                                             CompressionTerms terms,
                                                             Reduction reduction,
                                                             CallOptions options) {
  check_mean_or_sum(reduction.op);
  check_blocks(*how, size(), "compressed reduce_scatter");
  std::vector<Tile> tiles = cut_into_tiles(data, how->parts());
  check_block(*how, rank(), data, out);
  const Slice mine = how->parts()[static_cast<std::size_t>(rank())].where;
  Call call = next_call(Op::CompressedReduceScatter, data.dtype, data.count, -1, reduction.op);
  call.blocks = how->digest();
  const auto n = static_cast<std::size_t>(size());
  Compressor by = compressor(std::move(how), terms, data.bytes() * (n - 1) / n);
  by.terms = terms_of(terms, reduction, size());
  by.terms.seed += call.sequence;
  if (DeviceLane* const lane = options.room ? lane_for(call, options) : nullptr) {
    auto work = sra_of_blocks(tiles, by, SraStages::Scatter, rank(), options.room);
    return launch(call, options, *lane,
                  over_lane_into(*lane, call, by.report, std::move(work), data.at(mine), out));
  }
  const std::size_t pieces =
      begin_staging(options, 0, [&] { return Staging::Touched{{data}, {out}}; });
  auto make = [=, this, tiles = std::move(tiles), by = std::move(by)](const Call& call,
                                                                      const Piece& piece) mutable {
    return scatter_compressed(call, piece(data).at(mine), piece(out),
                              moved(std::move(tiles), data, piece(data)), std::move(by));
  };
  return run(call, options, pieces, std::move(make));
}

Task Communicator::scatter_compressed(Call call, View mine, View out, std::vector<Tile> tiles,
                                      Compressor by) {
  co_await greeting(call);
  std::vector<TileRange> blocks = in_ring_order(blocks_of(*by.how), ring_);
  if (size() == 1)
    for (const Tile& tile : tiles) settle_residual(tile, by.terms);
  else
    co_await sra_reduce_scatter(*us_.network, ring_, std::move(tiles), std::move(blocks),
                                std::move(by));
  if (mine.data != out.data) copy_bytes(mine.data, out.data, out.bytes());
}

Communicator::Handle Communicator::compressed_all_gather(View data,
                                                         std::shared_ptr<const Compression> how,
                                                         CompressionTerms terms,
                                                         CallOptions options) {
  check_blocks(*how, size(), "compressed all_gather");
  std::vector<Tile> tiles = cut_into_tiles(data, how->parts());
  Call call = next_call(Op::CompressedAllGather, data.dtype, data.count);
  call.blocks = how->digest();
  const std::size_t mine = how->parts()[static_cast<std::size_t>(rank())].where.count;
  Compressor by = compressor(std::move(how), terms,
                             mine * size_of(data.dtype) * (static_cast<std::size_t>(size()) - 1));
  by.terms.seed = terms.seed + call.sequence;
  if (DeviceLane* const lane = options.room ? lane_for(call, options) : nullptr) {
    auto work = sra_of_blocks(tiles, by, SraStages::Gather, rank(), options.room);
    return launch(call, options, *lane, over_lane(*lane, call, by.report, std::move(work)));
  }
  const std::size_t pieces =
      begin_staging(options, 0, [&] { return Staging::Touched{{data}, {data}}; });
  auto make = [=, this, tiles = std::move(tiles), by = std::move(by)](const Call& call,
                                                                      const Piece& piece) mutable {
    return gather_compressed(call, moved(std::move(tiles), data, piece(data)), std::move(by));
  };
  return run(call, options, pieces, std::move(make));
}

Task Communicator::gather_compressed(Call call, std::vector<Tile> tiles, Compressor by) {
  co_await greeting(call);
  std::vector<TileRange> blocks = in_ring_order(blocks_of(*by.how), ring_);
  if (size() > 1)
    co_await sra_all_gather(*us_.network, ring_, std::move(tiles), std::move(blocks),
                            std::move(by));
}

}  // namespace quoit
