#pragma once
// What a warp does with a row of a tile: the twin of compress/tiles.cpp, which says what the steps
// are for.
#include "kernels/row_hadamard.h"
#include "kernels/row_sign.h"

namespace quoit {
namespace {

inline constexpr unsigned kTileCount = 4096;  // kTile of codec_kernels.h
inline constexpr unsigned kTileRows = kTileCount / kRow;

struct TileAt {
  std::byte* data;
  float* residual;
  std::size_t offset;
  std::uint64_t key;
  unsigned count;
  DType dtype;
};

// Of a list of things whose ends are in `ends`, the one that `part` belongs to.
QUOIT_DEVICE inline unsigned thing_of(const unsigned* ends, unsigned count, unsigned part) {
  unsigned low = 0, high = count - 1;
  while (low < high) {
    const unsigned middle = (low + high) / 2;
    if (part < ends[middle]) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

template <class Format>
QUOIT_DEVICE std::size_t bytes_of_whole_tile() {
  if constexpr (std::is_same_v<Format, SignRows>) {
    return sign_bytes(kTileCount);
  } else {
    constexpr BlockLayout layout = Format::kLayout;
    return tile_bytes(layout, kTileCount);
  }
}

// `bytes`: of a whole tile, encoded.
QUOIT_DEVICE inline TileAt tile_at(const cuda::TileArgs& args, unsigned tile, std::size_t bytes) {
  const unsigned r = thing_of(args.ends, args.run_count, tile);
  const cuda::Run& run = args.runs[r];
  const std::size_t n = tile - (r > 0 ? args.ends[r - 1] : 0);
  const std::size_t begin = n * kTileCount, left = run.count - begin;
  return {run.data + begin * (run.dtype == DType::Float32 ? 4 : 2),
          run.residual ? run.residual + begin : nullptr,
          run.offset + n * bytes,
          tile_key(args.terms.seed, run.index + n, static_cast<std::uint64_t>(args.terms.rank),
                   args.stage),
          left < kTileCount ? static_cast<unsigned>(left) : kTileCount,
          run.dtype};
}

// What this rank gives of the row.
template <class Shape>
QUOIT_DEVICE void own_part(const cuda::TileArgs& args, const TileAt& tile, const RowAt& row,
                           unsigned lane, Held& p) {
  load_row<Shape>(tile.data, tile.dtype, row, lane, p);
  if (tile.residual == nullptr) return;
  Held carried;
  load_as<AsFloat, Shape>(reinterpret_cast<const std::byte*>(tile.residual), row, lane, carried);
  QUOIT_UNROLL
  for (unsigned i = 0; i < kHeld; ++i)
    p.at[i] = given(p.at[i], args.terms.before, carried.at[i], args.terms.unit);
}

QUOIT_DEVICE inline std::uint32_t not_finite(const Held& x) {
  std::uint32_t bits = 0;
  QUOIT_UNROLL
  for (unsigned i = 0; i < kHeld; ++i)
    bits |= static_cast<std::uint32_t>(magnitude_of(x.at[i]) >= kInfinite) << i;
  return bits;
}

template <class Shape>
QUOIT_DEVICE void store_residual(const Held& x, std::uint32_t skip, const TileAt& tile,
                                 const RowAt& row, unsigned lane) {
  store_as<AsFloat, Shape>(x, reinterpret_cast<std::byte*>(tile.residual), row, lane, skip);
}

// Encodes p and keeps what is lost.
template <class Format>
QUOIT_DEVICE void write_row(const Warp& warp, const cuda::TileArgs& args, const TileAt& tile,
                            const RowAt& row, Warp::Each<Held>& p) {
  using Shape = typename Format::Shape;
  const Place place{row.begin, row.count, tile.key};
  Warp::Each<typename Format::Lane> coded;
  Format::encode(warp, p, place, coded);
  warp.each([&](unsigned lane) { coded[lane].store(args.out + tile.offset, row, lane); });
  if (tile.residual == nullptr) return;
  Warp::Each<Held> decoded;
  Format::decode(warp, coded, place, decoded);
  warp.each([&](unsigned lane) {
    // Nothing is lost of numbers that travel as they are, whatever they are.
    constexpr bool exact = std::is_same_v<Format, RawRows>;
    const std::uint32_t skip = exact ? 0 : not_finite(decoded[lane]);
    QUOIT_UNROLL
    for (unsigned i = 0; i < kHeld; ++i) {
      p[lane].at[i] = exact ? 0 : lost(p[lane].at[i], decoded[lane].at[i], args.per_unit);
    }
    store_residual<Shape>(p[lane], skip, tile, row, lane);
  });
}

// ---- Sums, in rank order.

QUOIT_DEVICE inline float mean_of(float sum, float ranks) {
  const float mean = sum / ranks;
  return mean != mean ? __builtin_nanf("") : mean;
}

template <class Format>
QUOIT_DEVICE void add_up(const Warp& warp, const cuda::TileArgs& args, const TileAt& tile,
                         const RowAt& row, Warp::Each<Held>& total) {
  const Place place{row.begin, row.count, tile.key};
  // -0 changes nothing that is added to it, not even the sign of a zero.
  warp.each([&](unsigned lane) {
    QUOIT_UNROLL
    for (unsigned i = 0; i < kHeld; ++i) total[lane].at[i] = -0.0F;
  });
  QUOIT_ROLLED
  for (unsigned k = 0; k < args.peers; ++k) {
    const std::byte* const theirs = args.theirs[k];
    Warp::Each<Held> part;
    if (theirs == nullptr) {
      warp.each([&](unsigned lane) {
        own_part<typename Format::Shape>(args, tile, row, lane, part[lane]);
      });
    } else {
      Warp::Each<typename Format::Lane> coded;
      warp.each([&](unsigned lane) { coded[lane].load(theirs + tile.offset, row, lane); });
      Format::decode(warp, coded, place, part);
    }
    warp.each([&](unsigned lane) {
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) total[lane].at[i] += part[lane].at[i];
    });
  }
  if (tile.residual != nullptr || args.terms.after == 1) return;
  const auto ranks = static_cast<float>(args.terms.after);
  warp.each([&](unsigned lane) {
    QUOIT_UNROLL
    for (unsigned i = 0; i < kHeld; ++i) total[lane].at[i] = mean_of(total[lane].at[i], ranks);
  });
}

// The own part has one vote, as everybody's.
QUOIT_DEVICE inline void vote(const Warp& warp, const cuda::TileArgs& args, const TileAt& tile,
                              const RowAt& row, Warp::Each<Held>& total) {
  RowVotes votes;
  votes.begin(warp);
  QUOIT_ROLLED
  for (unsigned k = 0; k < args.peers; ++k) {
    const std::byte* const theirs = args.theirs[k];
    Warp::Each<SignLane> coded;
    if (theirs == nullptr) {
      Warp::Each<Held> own;
      warp.each([&](unsigned lane) { own_part<Columns>(args, tile, row, lane, own[lane]); });
      SignRows::encode(warp, own, {row.begin, row.count, tile.key}, coded);
    } else {
      warp.each([&](unsigned lane) { coded[lane].load(theirs + tile.offset, row, lane); });
    }
    votes.add(warp, coded);
  }
  votes.decide(warp, tile.residual ? 1 : args.terms.after, tile.key, total);
}

// How a Format's rows are summed: added up, or by vote.
template <class Format>
struct Added {
  using Rows = Format;
  QUOIT_DEVICE static void total(const Warp& warp, const cuda::TileArgs& args, const TileAt& tile,
                                 const RowAt& row, Warp::Each<Held>& total) {
    add_up<Format>(warp, args, tile, row, total);
  }
};

struct Voted {
  using Rows = SignRows;
  QUOIT_DEVICE static void total(const Warp& warp, const cuda::TileArgs& args, const TileAt& tile,
                                 const RowAt& row, Warp::Each<Held>& total) {
    vote(warp, args, tile, row, total);
  }
};

using RawSum = Added<RawRows>;
using Bf16Sum = Added<Bf16Rows<false>>;
using Bf16StochasticSum = Added<Bf16Rows<true>>;
using Fp8Sum = Added<ByteRows<Fp8Code>>;
using Int8Sum = Added<ByteRows<Int8Code>>;
using Int4Sum = Added<Int4Rows>;
using Int4HadamardSum = Added<Int4HadamardRows>;
using SignSum = Added<SignRows>;
using SignVoteSum = Voted;

// ---- The steps.

template <class Sum>
struct Encode {
  using Rows = typename Sum::Rows;
  QUOIT_DEVICE static void run(const Warp& warp, const cuda::TileArgs& args, const TileAt& tile,
                               const RowAt& row) {
    Warp::Each<Held> p;
    warp.each(
        [&](unsigned lane) { own_part<typename Rows::Shape>(args, tile, row, lane, p[lane]); });
    write_row<Rows>(warp, args, tile, row, p);
  }
};

// The sum goes where the data was; nothing is lost of it.
template <class Sum>
struct SumUp {
  using Rows = typename Sum::Rows;
  QUOIT_DEVICE static void run(const Warp& warp, const cuda::TileArgs& args, const TileAt& tile,
                               const RowAt& row) {
    using Shape = typename Rows::Shape;
    Warp::Each<Held> total;
    Sum::total(warp, args, tile, row, total);
    warp.each([&](unsigned lane) {
      store_row<Shape>(total[lane], tile.data, tile.dtype, row, lane);
      if (tile.residual) store_residual<Shape>(Held{}, not_finite(total[lane]), tile, row, lane);
    });
  }
};

// Zeros beyond the end: whatever a codec makes of bits that are not there.
template <class Shape>
QUOIT_DEVICE void clear_rest(const RowAt& row, unsigned lane, Held& x) {
  if (row.whole()) return;
  const int left = row.left(Shape::first(lane));
  QUOIT_UNROLL
  for (unsigned i = 0; i < kHeld; ++i) {
    if (static_cast<int>(Shape::offset(i)) >= left) x.at[i] = 0;
  }
}

// The sum is encoded, and what that loses goes into the residual.
template <class Sum>
struct Merge {
  using Rows = typename Sum::Rows;
  QUOIT_DEVICE static void run(const Warp& warp, const cuda::TileArgs& args, const TileAt& tile,
                               const RowAt& row) {
    Warp::Each<Held> total;
    Sum::total(warp, args, tile, row, total);
    warp.each([&](unsigned lane) { clear_rest<typename Rows::Shape>(row, lane, total[lane]); });
    write_row<Rows>(warp, args, tile, row, total);
  }
};

// What earlier calls lost goes to the data; what the data's type has no room for is kept.
struct Settle {
  using Rows = RawRows;
  QUOIT_DEVICE static void run(const Warp& warp, const cuda::TileArgs& args, const TileAt& tile,
                               const RowAt& row) {
    if (tile.residual == nullptr) return;
    warp.each([&](unsigned lane) {
      Held p;
      own_part<Fours>(args, tile, row, lane, p);
      store_row<Fours>(p, tile.data, tile.dtype, row, lane);
      Held kept = p;
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) {
        float& x = kept.at[i];
        if (tile.dtype == DType::BFloat16) x = AsBrain::widen(AsBrain::narrow(x));
        if (tile.dtype == DType::Float16) x = AsHalf::widen(AsHalf::narrow(x));
        p.at[i] = lost(p.at[i], x, args.per_unit);
      }
      const std::uint32_t skip = not_finite(kept);  // which narrowing may have made it
      store_residual<Fours>(p, skip, tile, row, lane);
    });
  }
};

// A warp's share of a tile.
template <class Step>
QUOIT_DEVICE void run_step(const Warp& warp, const cuda::TileArgs& args, unsigned tile,
                           unsigned number) {
  const TileAt at = tile_at(args, tile, bytes_of_whole_tile<typename Step::Rows>());
  const RowAt row{number * kRow, at.count};
  if (row.begin < row.count) Step::run(warp, args, at, row);
}

}  // namespace
}  // namespace quoit
