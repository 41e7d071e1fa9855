#include "collective/device_sra.h"

#include <algorithm>

#include "core/env.h"

namespace quoit {
namespace {

// Where chunks may begin: more than kernels and links ask for.
constexpr std::size_t kChunkAlign = 256;

constexpr unsigned kBlocksOfProcessor = 2;  // of 256 threads each; there is room for eight

std::size_t aligned(std::size_t bytes) { return ceil_div(bytes, kChunkAlign) * kChunkAlign; }

cuda::Terms with_scaling(const Terms& terms, bool scaled) {
  return {terms.before, scaled ? 1 : terms.after, terms.unit, terms.seed, terms.rank};
}

// Whether a tile goes on where the one before it ends, so that one run has both.
bool joins(const Tile& before, const Tile& next) {
  const bool together = before.data.data + before.data.bytes() == next.data.data;
  const float* const carried = before.residual ? before.residual + before.data.count : nullptr;
  return together && before.data.count == kTile && carried == next.residual &&
         before.data.dtype == next.data.dtype && before.codec == next.codec &&
         before.scaled == next.scaled;
}

bool same(const cuda::Codec& a, const cuda::Codec& b) {
  return a.format == b.format && (a.format != cuda::Format::TopK ||
                                  (a.topk.ratio == b.topk.ratio && a.topk.bits == b.topk.bits));
}

}  // namespace

unsigned codec_blocks(const cuda::KernelSet& kernels) {
  const std::optional<double> asked = env::read_number("QUOIT_CODEC_BLOCKS");
  if (!asked) return kBlocksOfProcessor * kernels.processors();
  QUOIT_CHECK(*asked >= 0 && *asked <= 1e6 && *asked == static_cast<unsigned>(*asked), UsageError,
              "QUOIT_CODEC_BLOCKS=", *asked,
              ": it must be a whole number of thread blocks, or 0 for no limit");
  return static_cast<unsigned>(*asked);
}

DeviceSra::DeviceSra(const std::vector<Tile>& tiles, const std::vector<TileRange>& chunks,
                     SraStages stages, int rank)
    : stages_(stages), rank_(rank) {
  QUOIT_CHECK(
      chunks.size() <= cuda::kMostPeers, UsageError, "compression over ", chunks.size(),
      " ranks on devices: their kernels add up at most ", cuda::kMostPeers,
      "; use a hierarchy of groups, or set QUOIT_NCCL=off, and it goes through host memory");
  for (const TileRange& range : chunks) {
    chunks_.push_back({encoded_, encoded_bytes(tiles, range)});
    add(tiles, range, chunks_.size() - 1);
    encoded_ += aligned(chunks_.back().size);
  }
  if (stages != SraStages::Gather) stride_ = aligned(chunks_[static_cast<std::size_t>(rank)].size);
}

DeviceSra::Group& DeviceSra::group_of(const Tile& tile) {
  const cuda::Codec codec = cuda::codec_called(tile.codec->name());
  for (Group& group : groups_)
    if (same(group.codec, codec) && group.scaled == tile.scaled) return group;
  groups_.push_back({codec, tile.scaled, {}, {}, {}});
  return groups_.back();
}

void DeviceSra::add(const std::vector<Tile>& tiles, TileRange range, std::size_t rank) {
  const bool mine = rank == static_cast<std::size_t>(rank_);
  Group* group = nullptr;
  std::size_t offset = 0;  // in the chunk
  for (std::size_t i = range.begin; i < range.end; ++i) {
    const Tile& tile = tiles[i];
    if (i > range.begin && joins(tiles[i - 1], tile)) {
      group->all.back().count += tile.data.count;
      (mine ? group->mine : group->others).back().count += tile.data.count;
    } else {
      group = &group_of(tile);
      cuda::Run run{.data = tile.data.data,
                    .residual = tile.residual,
                    .count = tile.data.count,
                    .offset = encoded_ + offset,
                    .index = tile.index,
                    .dtype = tile.data.dtype};
      group->all.push_back(run);
      if (mine) run.offset = offset;
      (mine ? group->mine : group->others).push_back(run);
    }
    offset += tile.bytes;
  }
}

View DeviceSra::chunk(std::byte* encoded, std::size_t rank) const {
  return {encoded + chunks_[rank].begin, chunks_[rank].size, DType::UInt8};
}

Task DeviceSra::run(std::byte* room, Terms terms, DeviceRun& on) const {
  terms.rank = rank_;
  if (ranks() == 1) {  // nothing is sent, so nothing is lost
    if (stages_ == SraStages::Gather) co_return;
    const Launching now(on);
    for (const Group& group : groups_)
      cuda::settle(on.kernels, group.all, with_scaling(terms, false), on.launch);
    co_return;
  }
  std::byte* const taken = room + encoded_;
  if (stages_ != SraStages::Gather) {
    encode(room, terms, on);
    DeviceExchange all = scattered(room, taken);
    count_sent(all, on.report);
    co_await on.exchange(std::move(all));
  }
  add_up(room, taken, terms, on);
  if (stages_ != SraStages::Scatter) {
    DeviceExchange all = gathered(room);
    count_sent(all, on.report);
    co_await on.exchange(std::move(all));
    decode(room, on);
  }
}

// What the others own.
void DeviceSra::encode(std::byte* encoded, const Terms& terms, const DeviceRun& on) const {
  const Launching now(on);
  for (const Group& group : groups_)
    cuda::encode(on.kernels, group.codec, group.others, with_scaling(terms, group.scaled), encoded,
                 on.launch);
}

// That, for what they give of mine.
DeviceExchange DeviceSra::scattered(std::byte* encoded, std::byte* taken) const {
  const auto me = static_cast<std::size_t>(rank_);
  DeviceExchange all{{}, {}, /*to_all=*/false};
  for (std::size_t r = 0; r < ranks(); ++r) {
    all.given.push_back(chunk(encoded, r));
    all.taken.push_back({taken + r * stride_, chunks_[me].size, DType::UInt8});
  }
  all.taken[me] = all.given[me];
  return all;
}

// My own chunk: added up, or encoded as it is.
void DeviceSra::add_up(std::byte* encoded, const std::byte* taken, const Terms& terms,
                       const DeviceRun& on) const {
  const Launching now(on);
  std::byte* const out = encoded + chunks_[static_cast<std::size_t>(rank_)].begin;
  std::vector<const std::byte*> theirs(ranks(), nullptr);
  for (std::size_t r = 0; r < ranks(); ++r)
    if (r != static_cast<std::size_t>(rank_)) theirs[r] = taken + r * stride_;
  for (const Group& group : groups_) {
    const cuda::Terms how = with_scaling(terms, group.scaled);
    if (stages_ == SraStages::Gather)
      cuda::encode_value(on.kernels, group.codec, group.mine, how, out, on.launch);
    else if (stages_ == SraStages::Both)
      cuda::merge(on.kernels, group.codec, group.mine, theirs, how, out, on.launch);
    else
      cuda::sum(on.kernels, group.codec, group.mine, theirs, how, on.launch);
  }
}

// Everybody's chunk to everybody. What others were given of their chunks lies where their results
// come to: it was sent before, in the same stream.
DeviceExchange DeviceSra::gathered(std::byte* encoded) const {
  DeviceExchange all{{}, {}, /*to_all=*/true};
  for (std::size_t r = 0; r < ranks(); ++r) {
    all.given.push_back(chunk(encoded, static_cast<std::size_t>(rank_)));
    all.taken.push_back(chunk(encoded, r));
  }
  return all;
}

void DeviceSra::count_sent(const DeviceExchange& all, CompressionReport& report) const {
  for (std::size_t r = 0; r < ranks(); ++r)
    if (r != static_cast<std::size_t>(rank_)) report.sent_bytes += all.given[r].count;
}

// What all have, my own chunk too.
void DeviceSra::decode(const std::byte* encoded, const DeviceRun& on) const {
  const Launching now(on);
  for (const Group& group : groups_)
    cuda::decode(on.kernels, group.codec, group.all, encoded, on.launch);
}

}  // namespace quoit
