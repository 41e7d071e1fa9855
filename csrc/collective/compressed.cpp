#include "collective/compressed.h"

#include <algorithm>
#include <array>
#include <optional>

namespace quoit {
namespace {

// How many segments a stage is ahead of the next one: one on the wire, one that waits behind it.
constexpr std::size_t kAhead = 2;
constexpr std::size_t kSlots = kAhead + 1;

// Encoded bytes of a segment: short enough to overlap, long enough for their messages.
constexpr std::size_t kLongestSegment = 256 * 1024;
constexpr std::size_t kShortestSegment = 32 * 1024;
constexpr std::size_t kSegments = 8;  // of a chunk, between these limits

enum class Stages { Scatter, Gather, Both };

// The chunks of a collective, each cut into as many segments.
class Plan {
 public:
  Plan(const std::vector<Tile>& tiles, const std::vector<TileRange>& chunks) {
    std::size_t longest = 0;
    for (const TileRange chunk : chunks) longest = std::max(longest, encoded_bytes(tiles, chunk));
    const std::size_t segment = std::clamp(longest / kSegments, kShortestSegment, kLongestSegment);
    segments_ = std::max<std::size_t>(1, ceil_div(longest, segment));
    for (const TileRange chunk : chunks) {
      for (const TileRange range : share_out(tiles, chunk, segments_)) {
        ranges_.push_back(range);
        longest_ = std::max(longest_, encoded_bytes(tiles, range));
      }
    }
  }

  [[nodiscard]] std::size_t segments() const { return segments_; }
  [[nodiscard]] std::size_t longest_bytes() const { return longest_; }  // of a segment
  [[nodiscard]] TileRange at(int owner, std::size_t segment) const {
    return ranges_[static_cast<std::size_t>(owner) * segments_ + segment];
  }

 private:
  std::size_t segments_ = 1;
  std::size_t longest_ = 0;
  std::vector<TileRange> ranges_;
};

// Buffers of encoded segments: one per slot and rank, for each of the four streams.
class Buffers {
 public:
  enum Stream : std::size_t { Given, Taken, Result, Results };

  Buffers(Scratch& memory, std::size_t bytes, int ranks)
      : bytes_(bytes),
        ranks_(static_cast<std::size_t>(ranks)),
        memory_(memory.get(4 * kSlots * ranks_ * bytes)) {}

  [[nodiscard]] std::byte* at(Stream stream, std::size_t segment, int position) const {
    return memory_ +
           ((stream * kSlots + segment % kSlots) * ranks_ + static_cast<std::size_t>(position)) *
               bytes_;
  }

 private:
  std::size_t bytes_;
  std::size_t ranks_;
  std::byte* memory_;
};

// What is in flight of one stream, by slot.
class Flights {
 public:
  std::vector<Transfer>& of(std::size_t segment) { return slots_[segment % kSlots]; }

 private:
  std::array<std::vector<Transfer>, kSlots> slots_;
};

template <class Step>
void for_tiles(const std::vector<Tile>& tiles, TileRange range, std::byte* bytes, Step step) {
  for (std::size_t i = range.begin; i < range.end; ++i) {
    step(tiles[i], bytes);
    bytes += tiles[i].bytes;
  }
}

Task sra(Network& net, Ring ring, std::vector<Tile> tiles, std::vector<TileRange> chunks,
         Stages stages, Compressor by) {
  const int me = ring.position;
  const bool scatters = stages != Stages::Gather;
  const bool gathers = stages != Stages::Scatter;
  by.terms.rank = me;
  const Plan plan(tiles, chunks);
  const Buffers buffers(by.workspace->segments, plan.longest_bytes(), ring.size());
  Flights giving, taking, telling, hearing;

  const auto send = [&](Flights& flights, std::size_t segment, int to, const std::byte* bytes,
                        std::size_t count) {
    flights.of(segment).push_back(net.send(ring.rank_at(to), kCollectiveTag, {bytes, count}));
    by.report->sent_bytes += count;
  };
  const auto expect = [&](Flights& flights, std::size_t segment, int from, std::byte* bytes,
                          std::size_t count) {
    flights.of(segment).push_back(net.recv(ring.rank_at(from), kCollectiveTag, {bytes, count}));
  };

  // Encodes what the others own of a segment, sends it to them, and expects what they give of mine.
  const auto give = [&](std::size_t segment) {
    for (int d = 1; d < ring.size(); ++d) {
      const int to = ring.wrap(me + d);
      const TileRange theirs = plan.at(to, segment);
      std::byte* const bytes = buffers.at(Buffers::Given, segment, to);
      {
        const Timed timed(*by.report);
        for_tiles(tiles, theirs, bytes,
                  [&](const Tile& tile, std::byte* out) { encode_tile(tile, by.terms, out); });
      }
      send(giving, segment, to, bytes, encoded_bytes(tiles, theirs));
    }
    const std::size_t mine = encoded_bytes(tiles, plan.at(me, segment));
    for (int d = 1; d < ring.size(); ++d) {
      const int from = ring.wrap(me - d);
      expect(taking, segment, from, buffers.at(Buffers::Taken, segment, from), mine);
    }
  };

  // Sums my part of a segment.
  const auto merge = [&](std::size_t segment) {
    const Timed timed(*by.report);
    std::vector<const std::byte*> theirs(static_cast<std::size_t>(ring.size()), nullptr);
    for (int p = 0; p < ring.size(); ++p)
      if (p != me) theirs[static_cast<std::size_t>(p)] = buffers.at(Buffers::Taken, segment, p);
    for_tiles(tiles, plan.at(me, segment), buffers.at(Buffers::Result, segment, me),
              [&](const Tile& tile, std::byte* out) {
                if (!scatters)
                  encode_value(tile, by.terms, out);
                else if (gathers)
                  merge_tile(tile, theirs, by.terms, out);
                else
                  sum_tile(tile, theirs, by.terms);
                if (gathers) decode_tile(tile, out);
                for (const std::byte*& bytes : theirs)
                  if (bytes != nullptr) bytes += tile.bytes;
              });
  };

  // Tells everybody my part of a segment, and expects theirs.
  const auto tell = [&](std::size_t segment) {
    const std::size_t mine = encoded_bytes(tiles, plan.at(me, segment));
    for (int d = 1; d < ring.size(); ++d)
      send(telling, segment, ring.wrap(me + d), buffers.at(Buffers::Result, segment, me), mine);
    for (int d = 1; d < ring.size(); ++d) {
      const int from = ring.wrap(me - d);
      expect(hearing, segment, from, buffers.at(Buffers::Results, segment, from),
             encoded_bytes(tiles, plan.at(from, segment)));
    }
  };

  const auto decode = [&](std::size_t segment) {
    const Timed timed(*by.report);
    for (int p = 0; p < ring.size(); ++p)
      if (p != me)
        for_tiles(tiles, plan.at(p, segment), buffers.at(Buffers::Results, segment, p),
                  [&](const Tile& tile, const std::byte* in) { decode_tile(tile, in); });
  };

  // All ranks send and receive in this order, so that messages of both stages match.
  const std::size_t first = scatters ? kAhead : 0;
  const std::size_t second = gathers ? first + kAhead : first;
  for (std::size_t i = 0; i < plan.segments() + second; ++i) {
    if (scatters && i < plan.segments()) {
      for (Transfer& sent : giving.of(i)) co_await sent;
      giving.of(i).clear();
      give(i);
    }
    if (i >= first && i - first < plan.segments()) {
      const std::size_t segment = i - first;
      for (Transfer& taken : taking.of(segment)) co_await taken;
      taking.of(segment).clear();
      for (Transfer& told : telling.of(segment)) co_await told;
      telling.of(segment).clear();
      merge(segment);
      if (gathers) tell(segment);
    }
    if (gathers && i >= second) {
      const std::size_t segment = i - second;
      for (Transfer& heard : hearing.of(segment)) co_await heard;
      hearing.of(segment).clear();
      decode(segment);
    }
  }
  for (std::size_t slot = 0; slot < kSlots; ++slot) {
    for (Transfer& sent : giving.of(slot)) co_await sent;
    for (Transfer& told : telling.of(slot)) co_await told;
  }
}

// Runs of tiles that lie together in memory and have one dtype, of at most `bytes` each.
std::vector<TileRange> stretches(const std::vector<Tile>& tiles, std::size_t bytes) {
  std::vector<TileRange> runs;
  std::size_t begin = 0;
  std::size_t length = 0;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const View& here = tiles[i].data;
    const bool joins = i > begin && tiles[i - 1].data.dtype == here.dtype &&
                       tiles[i - 1].data.data + tiles[i - 1].data.bytes() == here.data &&
                       length + here.bytes() <= bytes;
    if (i > begin && !joins) {
      runs.push_back({begin, i});
      begin = i;
      length = 0;
    }
    length += here.bytes();
  }
  runs.push_back({begin, tiles.size()});
  return runs;
}

// What a run of tiles that lie together covers.
View span_of(const std::vector<Tile>& tiles, TileRange range, View at_least) {
  if (range.size() == 0) return {at_least.data, 0, at_least.dtype};
  View view = tiles[range.begin].data;
  for (std::size_t i = range.begin + 1; i < range.end; ++i) view.count += tiles[i].data.count;
  return view;
}

}  // namespace

Task sra_all_reduce(Network& net, Ring ring, std::vector<Tile> tiles, Compressor by) {
  auto chunks = share_out(tiles, {0, tiles.size()}, static_cast<std::size_t>(ring.size()));
  return sra(net, std::move(ring), std::move(tiles), std::move(chunks), Stages::Both,
             std::move(by));
}

Task sra_reduce_scatter(Network& net, Ring ring, std::vector<Tile> tiles,
                        std::vector<TileRange> blocks, Compressor by) {
  return sra(net, std::move(ring), std::move(tiles), std::move(blocks), Stages::Scatter,
             std::move(by));
}

Task sra_all_gather(Network& net, Ring ring, std::vector<Tile> tiles, std::vector<TileRange> blocks,
                    Compressor by) {
  return sra(net, std::move(ring), std::move(tiles), std::move(blocks), Stages::Gather,
             std::move(by));
}

Task hierarchical_sra(Board& board, Network& net, Lanes lanes, Call call, std::vector<Tile> tiles,
                      Compressor by) {
  for (const Tile& tile : tiles) settle_residual(tile, by.terms);
  by.terms.before = 1;  // settled tiles are
  const std::vector<TileRange> segments = stretches(tiles, kHierarchySegment);
  const ReduceStep add;

  // The tiles of each local rank's shard of a segment: shard l goes by lane l.
  const auto shards_of = [&](std::size_t k) {
    std::vector<TileRange> shards =
        share_out(tiles, segments[k], static_cast<std::size_t>(lanes.count));
    shards.resize(static_cast<std::size_t>(board.size()), {segments[k].end, segments[k].end});
    return shards;
  };
  const auto views_of = [&](std::size_t k) {
    std::vector<View> views;
    for (const TileRange shard : shards_of(k))
      views.push_back(span_of(tiles, shard, tiles[segments[k].begin].data));
    return views;
  };
  const auto me = static_cast<std::size_t>(board.rank());

  std::optional<Beside> wire;
  for (std::size_t k = 0; k <= segments.size(); ++k) {
    // While segment k - 1 is on the wire, k is summed inside the host.
    if (k < segments.size()) {
      const std::vector<View> views = views_of(k);
      co_await direct_reduce_scatter(board, call, views, views[me], add);
    }
    if (wire) co_await *wire;
    wire.reset();
    if (k < segments.size() && lanes.member) {
      const TileRange mine = shards_of(k)[me];
      wire.emplace(sra_all_reduce(net, lanes.ring,
                                  {tiles.begin() + static_cast<std::ptrdiff_t>(mine.begin),
                                   tiles.begin() + static_cast<std::ptrdiff_t>(mine.end)},
                                  by));
    }
    // And while k is on the wire, k - 1 is handed to everybody inside.
    if (k > 0) {
      const std::vector<View> views = views_of(k - 1);
      co_await direct_all_gather(board, call, views[me], views);
    }
  }
}

void ReplicaClaim::check(const ReplicaClaim& theirs, int rank) const {
  QUOIT_CHECK(theirs.result == result, Error,
              "replicas differ: after a compressed all_reduce rank ", rank,
              " holds other bits than this rank. Do all ranks run the same version of quoit?");
  QUOIT_CHECK(theirs.fingerprint == fingerprint, Error, "replicas differ: rank ", rank,
              " has another fingerprint of its parameters than this rank. Were they the same at "
              "the start, and has every rank made the same steps since?");
}

Task compare_replicas(Network& net, Ring ring, ReplicaClaim mine) {
  // At distances that double, as calls are compared before a rooted collective: nobody is done
  // before everybody was found alike.
  for (int distance = 1; distance < ring.size(); distance *= 2) {
    const int from = ring.rank_at(ring.position - distance);
    ReplicaClaim theirs;
    Exchange exchange =
        net.exchange(ring.rank_at(ring.position + distance), std::as_bytes(std::span(&mine, 1)),
                     from, std::as_writable_bytes(std::span(&theirs, 1)));
    co_await exchange;
    mine.check(theirs, from);
  }
}

}  // namespace quoit
