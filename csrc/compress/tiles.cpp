#include "compress/tiles.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/cast.h"
#include "kernels/mix.h"

namespace quoit {
namespace {

using Scratch = std::array<float, kTile>;

float* floats_of(const Tile& tile, Scratch& scratch) {
  return widened(tile.data, tile.codec->kernels(), scratch.data());
}

void store(const Tile& tile, const float* from) { narrow(from, tile.codec->kernels(), tile.data); }

std::uint64_t key_of(const Tile& tile, const Terms& terms, std::uint64_t stage) {
  return tile_key(terms.seed, tile.index, static_cast<std::uint64_t>(terms.rank), stage);
}

Source own_part(const Tile& tile, const Terms& terms, Scratch& scratch) {
  Source from{.in = floats_of(tile, scratch), .count = tile.data.count};
  if (tile.residual != nullptr) {
    from.scale = terms.before;
    from.carried = tile.residual;
    from.unit = terms.unit;
    from.per_unit = 1 / terms.unit;
  }
  return from;
}

void add_up(const Tile& tile, std::span<const std::byte* const> theirs, const Terms& terms,
            float* total) {
  alignas(64) Scratch scratch;
  Contributions from{own_part(tile, terms, scratch), theirs};
  from.own.key = key_of(tile, terms, 0);
  if (tile.residual == nullptr && !tile.scaled) from.divide_by = terms.after;
  tile.codec->sum(from, total);
}

// Appends tiles of up to kTile elements; tile_at(begin, count) makes one, all but its encoded size
// and index.
template <class TileAt>
void cut(std::size_t count, std::vector<Tile>& tiles, TileAt tile_at) {
  for (std::size_t begin = 0; begin < count; begin += kTile) {
    Tile tile = tile_at(begin, std::min(kTile, count - begin));
    tile.bytes = tile.codec->bytes(tile.data.count);
    tile.index = tiles.size();
    tiles.push_back(tile);
  }
}

}  // namespace

std::vector<Tile> cut_into_tiles(View data, const std::vector<Part>& parts) {
  QUOIT_CHECK(
      data.dtype == DType::Float32 || data.dtype == DType::BFloat16 || data.dtype == DType::Float16,
      UsageError, "compression of ", name_of(data.dtype),
      ": only float32, bfloat16 and float16 can be compressed; send it without a codec");
  std::vector<Tile> tiles;
  tiles.reserve(data.count / kTile + parts.size());
  std::size_t covered = 0;
  for (const Part& part : parts) {
    QUOIT_CHECK(
        part.where.begin == covered, UsageError,
        "the tensors of a compressed buffer must follow one another: one begins at element ",
        part.where.begin, ", the one before it ends at ", covered);
    covered += part.where.count;
    QUOIT_CHECK(covered <= data.count, UsageError, "the tensors of a compressed buffer end at ",
                covered, ", the buffer at element ", data.count);
    cut(part.where.count, tiles, [&](std::size_t begin, std::size_t count) {
      return Tile{.data = data.at({part.where.begin + begin, count}),
                  .codec = part.codec.get(),
                  .residual = part.residual ? part.residual + begin : nullptr,
                  .of_matrix = part.matrix != nullptr};
    });
  }
  QUOIT_CHECK(covered == data.count, UsageError, "the tensors of a compressed buffer end at ",
              covered, ", the buffer at element ", data.count);
  return tiles;
}

void cut_factor(View factor, const Codec& codec, std::vector<Tile>& tiles) {
  cut(factor.count, tiles, [&](std::size_t begin, std::size_t count) {
    return Tile{.data = factor.at({begin, count}), .codec = &codec, .scaled = true};
  });
}

std::size_t encoded_bytes(const std::vector<Tile>& tiles, TileRange range) {
  std::size_t bytes = 0;
  for (std::size_t i = range.begin; i < range.end; ++i) bytes += tiles[i].bytes;
  return bytes;
}

std::vector<TileRange> share_out(const std::vector<Tile>& tiles, TileRange range,
                                 std::size_t parts) {
  const std::size_t total = encoded_bytes(tiles, range);
  std::vector<TileRange> shares;
  std::size_t next = range.begin;
  std::size_t given = 0;
  for (std::size_t i = 0; i < parts; ++i) {
    const TileRange share{next, [&] {
                            if (i + 1 == parts) return range.end;
                            // As many tiles as come closest to an even share.
                            const std::size_t due = total * (i + 1) / parts;
                            while (next < range.end && given + tiles[next].bytes / 2 < due)
                              given += tiles[next++].bytes;
                            return next;
                          }()};
    next = share.end;
    shares.push_back(share);
  }
  return shares;
}

float* widened(View data, const CodecKernels& kernels, float* room) {
  if (data.dtype == DType::Float32) return reinterpret_cast<float*>(data.data);
  const auto* const in = reinterpret_cast<const std::uint16_t*>(data.data);
  const bool brain = data.dtype == DType::BFloat16;
  (brain ? kernels.from_bf16 : kernels.from_f16)(in, room, data.count);
  return room;
}

float* place_for(View data, float* room) {
  return data.dtype == DType::Float32 ? reinterpret_cast<float*>(data.data) : room;
}

void narrow(const float* from, const CodecKernels& kernels, View data) {
  if (data.dtype == DType::Float32) return;
  auto* const out = reinterpret_cast<std::uint16_t*>(data.data);
  const bool brain = data.dtype == DType::BFloat16;
  (brain ? kernels.to_bf16 : kernels.to_f16)(from, out, data.count);
}

void encode_tile(const Tile& tile, const Terms& terms, std::byte* out) {
  alignas(64) Scratch scratch;
  Source from = own_part(tile, terms, scratch);
  from.residual = tile.residual;
  from.key = key_of(tile, terms, 0);
  tile.codec->encode(from, out);
}

void merge_tile(const Tile& tile, std::span<const std::byte* const> theirs, const Terms& terms,
                std::byte* out) {
  alignas(64) Scratch total;
  add_up(tile, theirs, terms, total.data());
  Source mean{.in = total.data(), .count = tile.data.count};
  mean.residual = tile.residual;
  mean.unit = terms.unit;
  mean.per_unit = 1 / terms.unit;
  mean.key = key_of(tile, terms, 1);
  tile.codec->encode(mean, out);
}

void sum_tile(const Tile& tile, std::span<const std::byte* const> theirs, const Terms& terms) {
  alignas(64) Scratch total;
  add_up(tile, theirs, terms, total.data());
  float* const out = place_for(tile.data, total.data());
  if (out != total.data()) std::copy_n(total.data(), tile.data.count, out);
  store(tile, total.data());
  if (tile.residual == nullptr) return;
  for (std::size_t i = 0; i < tile.data.count; ++i)
    if (std::isfinite(total[i])) tile.residual[i] = 0;
}

void encode_value(const Tile& tile, const Terms& terms, std::byte* out) {
  alignas(64) Scratch scratch;
  Source from{.in = floats_of(tile, scratch), .count = tile.data.count};
  from.key = key_of(tile, terms, 1);
  tile.codec->encode(from, out);
}

void decode_tile(const Tile& tile, const std::byte* in) {
  alignas(64) Scratch scratch;
  float* const out = place_for(tile.data, scratch.data());
  tile.codec->decode(in, out, tile.data.count);
  store(tile, out);
}

void settle_residual(const Tile& tile, const Terms& terms) {
  if (tile.residual == nullptr) return;
  alignas(64) Scratch scratch;
  alignas(64) Scratch settled;
  const Source from = own_part(tile, terms, scratch);
  tile.codec->kernels().load(from, settled.data());
  const bool exact = tile.data.dtype == DType::Float32;
  float* const out = place_for(tile.data, scratch.data());
  for (std::size_t i = 0; i < tile.data.count; ++i) out[i] = settled[i];
  store(tile, out);
  const float* const kept = exact ? out : floats_of(tile, scratch);
  for (std::size_t i = 0; i < tile.data.count; ++i)
    if (std::isfinite(kept[i])) tile.residual[i] = (settled[i] - kept[i]) * from.per_unit;
}

}  // namespace quoit
