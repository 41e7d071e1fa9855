#pragma once
// What a thread block does with a tile of which only the largest numbers are kept: the twin of
// topk_loops.h. Threads keep their sixteen numbers in registers, and the threshold is searched as
// on the CPU, by bisection. A probe of the largest number of each thread is one instruction and its
// barrier; few numbers are above what that finds, and they fit one to a thread again. Where more
// than a 64th is kept, probes count all numbers.
#include "kernels/row_codec.h"
#include "kernels/team_sums.h"

namespace quoit {
namespace {

inline constexpr unsigned kTopKMost = kTileCount / 4;  // of a tile
inline constexpr unsigned kTopKMostBytes = 4096;       // not less than of a tile, encoded

// Shared memory.
struct TopKShared {
  Exchange::Parts parts;
  unsigned candidates;  // how many there are
  std::uint32_t candidate[kTeam];
  float chosen[kTopKMost];  // in the order of the tile
  std::uint16_t indices[kTopKMost];
  std::uint8_t codes[kTopKMost];
};

struct TopKSumShared {
  alignas(16) float total[kTileCount];
  std::uint32_t encoded[2 * kTopKMostBytes / 4];  // of some ranks
};

template <class Count>
QUOIT_DEVICE TopKBetween topk_largest(const Count& count, std::size_t wanted, std::size_t enough,
                                      TopKBetween between) {
  const std::int32_t eighth = topk_eighth(between.to - 1);
  if (between.found > enough && eighth > between.from) topk_probe(count, eighth, wanted, between);
  topk_narrow(count, wanted, enough, between);
  return between;
}

// Where the numbers that are kept begin: `found` are no smaller, more than `wanted` only if those
// that are too many are equal to `from`. The largest of the tile is neither zero nor infinite.
QUOIT_DEVICE inline TopKBetween topk_threshold(const Team& team, Exchange& exchange,
                                               TopKShared& shared, unsigned wanted,
                                               std::int32_t largest, const Team::Each<Held>& p,
                                               const Team::Each<std::uint32_t>& most) {
  const auto count_all = [&](std::int32_t least) -> std::size_t {
    Team::Each<std::uint32_t> n;
    team.each([&](unsigned t) {
      n[t] = 0;
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) n[t] += magnitude_of(p[t].at[i]) >= least ? 1 : 0;
    });
    return exchange.sum(n);
  };
  const auto count_one = [&](const Team::Each<std::uint32_t>& x,
                             std::int32_t least) -> std::size_t {
    Team::Each<bool> above;
    team.each([&](unsigned t) { above[t] = static_cast<std::int32_t>(x[t]) >= least; });
    return team.count(above);
  };
  std::int32_t floor = 1;  // zeros are none
  if (4 * wanted <= kTeam) {
    const auto of_most = [&](std::int32_t least) { return count_one(most, least); };
    const TopKBetween few =
        topk_largest(of_most, wanted, wanted + wanted / 4, {0, largest + 1, kTeam});
    floor = few.from > 1 ? few.from : 1;
    team.each([&](unsigned t) {
      if (static_cast<std::int32_t>(most[t]) < floor) return;
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) {
        const std::int32_t magnitude = magnitude_of(p[t].at[i]);
        if (magnitude < floor) continue;
        const unsigned at = team.add(shared.candidates, 1);
        if (at < kTeam) shared.candidate[at] = static_cast<std::uint32_t>(magnitude);
      }
    });
    team.sync();
    const unsigned found = shared.candidates;
    if (found <= kTeam) {
      Team::Each<std::uint32_t> one;
      team.each([&](unsigned t) { one[t] = t < found ? shared.candidate[t] : 0; });
      const auto of_one = [&](std::int32_t least) { return count_one(one, least); };
      return topk_largest(of_one, wanted, wanted, {floor, largest + 1, found});
    }
  }
  return topk_largest(count_all, wanted, wanted, {floor, largest + 1, count_all(floor)});
}

// Which numbers are kept; of equal ones, the first.
QUOIT_DEVICE inline void topk_choose(const Team& team, Exchange& exchange,
                                     const TopKBetween& between, unsigned wanted,
                                     const Team::Each<Held>& p, Team::Each<std::uint32_t>& chosen) {
  const bool ties = between.found > wanted;
  Team::Each<std::uint32_t> tied;
  team.each([&](unsigned t) {
    chosen[t] = tied[t] = 0;
    QUOIT_UNROLL
    for (unsigned i = 0; i < kHeld; ++i) {
      const std::int32_t magnitude = magnitude_of(p[t].at[i]);
      const bool equal = ties && magnitude == between.from;
      tied[t] |= static_cast<std::uint32_t>(equal) << i;
      chosen[t] |= static_cast<std::uint32_t>(!equal && magnitude >= between.from) << i;
    }
  });
  if (!ties) return;
  const std::size_t first = wanted - between.beyond;
  Team::Each<Ranks> ranks;
  exchange.rank(tied, ranks);
  team.each([&](unsigned t) {
    QUOIT_UNROLL
    for (unsigned i = 0; i < kHeld; ++i) {
      unsigned& at = ranks[t].at[i / 4];
      if ((tied[t] >> i & 1) == 0) continue;
      if (at < first) chosen[t] |= 1U << i;
      ++at;
    }
  });
}

// Byte `at` of an encoded tile.
QUOIT_DEVICE inline std::uint32_t topk_byte(const TopKShared& shared, const TopKLayout& layout,
                                            const TopKGrid& grid, unsigned kept, unsigned at) {
  const auto header = static_cast<unsigned>(kTopKHeader);
  const auto codes_at = static_cast<unsigned>(topk_codes_at(layout));
  const auto bits = static_cast<unsigned>(layout.bits);
  if (at < header) {
    const std::uint32_t half = at < 2 ? grid.low : at < 4 ? grid.step : kept;
    return half >> 8 * (at % 2) & 0xff;
  }
  if (at < codes_at) {
    const unsigned pair = (at - header) / 3, byte = (at - header) % 3;
    const std::uint32_t low = 2 * pair < kept ? shared.indices[2 * pair] : 0;
    const std::uint32_t high = 2 * pair + 1 < kept ? shared.indices[2 * pair + 1] : 0;
    return (low | high << kTopKIndexBits) >> 8 * byte & 0xff;
  }
  std::uint32_t byte = 0;
  for (unsigned i = 0; i < 8 / bits; ++i) {
    const unsigned k = (at - codes_at) * (8 / bits) + i;
    if (k < kept) byte |= static_cast<std::uint32_t>(shared.codes[k]) << i * bits;
  }
  return byte;
}

// By words, of which neighbours write neighbours: a tile lies at a multiple of 4.
QUOIT_DEVICE inline void topk_store(const Team& team, const TopKShared& shared,
                                    const TopKLayout& layout, const TopKGrid& grid, unsigned kept,
                                    std::byte* out) {
  const auto words = static_cast<unsigned>(topk_bytes(layout) / 4);
  team.each([&](unsigned t) {
    for (unsigned w = t; w < words; w += kTeam) {
      std::uint32_t word = 0;
      for (unsigned b = 0; b < 4; ++b)
        word |= topk_byte(shared, layout, grid, kept, 4 * w + b) << 8 * b;
      reinterpret_cast<Element<std::uint32_t>*>(out)[w] = {{word}};
    }
  });
}

QUOIT_DEVICE inline RowAt row_of(const TileAt& tile, unsigned thread) {
  return {thread / 32 * kRow, tile.count};
}

// Encodes p, of which there are zeros beyond the end, and keeps what is lost.
QUOIT_DEVICE inline void topk_write(const Team& team, const cuda::TileArgs& args,
                                    const TileAt& tile, const TopKLayout& layout,
                                    TopKShared& shared, const Team::Each<Held>& p) {
  team.sync();  // whoever is still at the last tile
  Exchange exchange(team, shared.parts);
  std::byte* const out = args.out + tile.offset;
  Team::Each<std::uint32_t> most, folded;
  team.each([&](unsigned t) {
    most[t] = folded[t] = static_cast<std::uint32_t>(largest_magnitude_of(p[t]));
    if (t == 0) shared.candidates = 0;
  });
  const auto largest = static_cast<std::int32_t>(exchange.largest(folded));
  if (largest >= kInfinite) {
    topk_store(team, shared, layout, {kBFloat16NaN, 0}, 0, out);
    return;
  }
  if (tile.residual) {
    team.each([&](unsigned t) {
      Held rest;
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) rest.at[i] = p[t].at[i] * args.per_unit;
      store_residual<Neighbours>(rest, 0, tile, row_of(tile, t), t % 32);
    });
  }
  if (largest == 0) {
    topk_store(team, shared, layout, {0, 0}, 0, out);
    return;
  }
  const auto wanted = static_cast<unsigned>(layout.most);
  const TopKBetween between = topk_threshold(team, exchange, shared, wanted, largest, p, most);
  const unsigned kept = between.found < wanted ? static_cast<unsigned>(between.found) : wanted;
  Team::Each<std::uint32_t> chosen, least;
  topk_choose(team, exchange, between, wanted, p, chosen);
  Team::Each<Ranks> ranks;
  exchange.rank(chosen, ranks);
  team.each([&](unsigned t) {
    least[t] = kInfinite;
    QUOIT_UNROLL
    for (unsigned i = 0; i < kHeld; ++i) {
      if ((chosen[t] >> i & 1) == 0) continue;
      const auto magnitude = static_cast<std::uint32_t>(magnitude_of(p[t].at[i]));
      least[t] = magnitude < least[t] ? magnitude : least[t];
      const unsigned at = ranks[t].at[i / 4]++;
      shared.chosen[at] = p[t].at[i];
      shared.indices[at] = static_cast<std::uint16_t>(
          row_of(tile, t).begin + Neighbours::first(t % 32) + Neighbours::offset(i));
    }
  });
  const std::uint32_t last = topk_last_code(layout.bits);
  const TopKGrid grid = topk_grid(static_cast<std::int32_t>(exchange.least(least)), largest, last);
  const float low = float_from_bits16(grid.low), step = float_from_bits16(grid.step);
  const float divisor = grid.step == 0 ? __builtin_inff() : step;
  const auto last_code = static_cast<float>(static_cast<std::int32_t>(last));
  team.each([&](unsigned t) {
    for (unsigned k = t; k < kept; k += kTeam) {
      const float x = shared.chosen[k];
      const auto code = static_cast<std::uint32_t>(
          topk_code(low, divisor, last_code, __builtin_bit_cast(float, magnitude_of(x))));
      shared.codes[k] = static_cast<std::uint8_t>(x < 0 ? code + last + 1 : code);
      // After what its owner has written, as all have met since.
      if (tile.residual)
        tile.residual[shared.indices[k]] = topk_lost(x, low, step, code, args.per_unit);
    }
  });
  team.sync();
  topk_store(team, shared, layout, grid, kept, out);
}

// ---- Sums, in rank order.

QUOIT_DEVICE inline std::uint32_t load_16(const std::byte* at) {
  return static_cast<std::uint32_t>(at[0]) | static_cast<std::uint32_t>(at[1]) << 8;
}

// total[i] = what a rank gave, if it is the first, or += that.
QUOIT_DEVICE inline void topk_add(const Team& team, const TileAt& tile, const TopKLayout& layout,
                                  const std::byte* in, bool first, float* total) {
  const bool none = load_16(in) == kBFloat16NaN;
  if (none || first) {
    team.each([&](unsigned t) {
      for (unsigned i = t; i < kTileCount; i += kTeam) {
        const float value = none ? float_from_bf16(kBFloat16NaN) : 0;
        total[i] = first ? value : total[i] + value;
      }
    });
    team.sync();
  }
  if (none) return;
  const float low = float_from_bits16(load_16(in)), step = float_from_bits16(load_16(in + 2));
  const auto most = static_cast<unsigned>(layout.most), said = load_16(in + 4);
  const unsigned kept = said < most ? said : most;
  const auto bits = static_cast<unsigned>(layout.bits), per_byte = 8 / bits;
  const std::uint32_t last = topk_last_code(layout.bits);
  const std::byte* const indices = in + kTopKHeader;
  const std::byte* const codes = in + topk_codes_at(layout);
  team.each([&](unsigned t) {
    for (unsigned k = t; k < kept; k += kTeam) {
      const std::uint32_t at = topk_index(load_16(indices + k * 3 / 2), k);
      const auto code = static_cast<std::uint32_t>(codes[k / per_byte]) >> k % per_byte * bits;
      const float value = topk_value(low, step, last, code);
      if (at < tile.count) total[at] = first ? value : total[at] + value;
    }
  });
  team.sync();
}

QUOIT_DEVICE inline void topk_add_own(const Team& team, const cuda::TileArgs& args,
                                      const TileAt& tile, bool first, float* total) {
  team.each([&](unsigned t) {
    Held own;
    own_part<Neighbours>(args, tile, row_of(tile, t), t % 32, own);
    auto* const to = total + row_of(tile, t).begin + Neighbours::first(t % 32);
    QUOIT_UNROLL
    for (unsigned i = 0; i < kHeld; ++i) {
      float& x = to[Neighbours::offset(i)];
      x = first ? own.at[i] : x + own.at[i];
    }
  });
  team.sync();
}

// What ranks gave is fetched for as many of them as there is room for, so that one waits for memory
// only once for all of these.
QUOIT_DEVICE inline void topk_total(const Team& team, const cuda::TileArgs& args,
                                    const TileAt& tile, const TopKLayout& layout,
                                    TopKSumShared& shared, Team::Each<Held>& total) {
  const auto words = static_cast<unsigned>(topk_bytes(layout) / 4);
  const unsigned room = sizeof shared.encoded / 4 / words;
  team.sync();  // whoever is still at the last tile
  QUOIT_ROLLED
  for (unsigned begin = 0; begin < args.peers; begin += room) {
    const unsigned ranks = args.peers - begin < room ? args.peers - begin : room;
    team.each([&](unsigned t) {
      for (unsigned i = t; i < ranks * words; i += kTeam) {
        const std::byte* const theirs = args.theirs[begin + i / words];
        if (theirs == nullptr) continue;
        const auto* const from =
            reinterpret_cast<const Element<std::uint32_t>*>(theirs + tile.offset);
        shared.encoded[i] = from[i % words].at[0];
      }
    });
    team.sync();
    QUOIT_ROLLED
    for (unsigned k = 0; k < ranks; ++k) {
      const bool first = begin + k == 0;
      if (args.theirs[begin + k] == nullptr) {
        topk_add_own(team, args, tile, first, shared.total);
      } else {
        const auto* const in = reinterpret_cast<const std::byte*>(shared.encoded + k * words);
        topk_add(team, tile, layout, in, first, shared.total);
      }
    }
  }
  const bool divide = tile.residual == nullptr && args.terms.after != 1;
  const auto ranks = static_cast<float>(args.terms.after);
  team.each([&](unsigned t) {
    const float* const from = shared.total + row_of(tile, t).begin + Neighbours::first(t % 32);
    QUOIT_UNROLL
    for (unsigned i = 0; i < kHeld; ++i) {
      const float x = from[Neighbours::offset(i)];
      total[t].at[i] = divide ? mean_of(x, ranks) : x;
    }
  });
}

// ---- The steps, as in row_codec.h.

struct TopKEncode {
  using Shared = TopKShared;
  QUOIT_DEVICE static void run(const Team& team, const cuda::TileArgs& args, const TileAt& tile,
                               const TopKLayout& layout, Shared& shared) {
    Team::Each<Held> p;
    team.each([&](unsigned t) { own_part<Neighbours>(args, tile, row_of(tile, t), t % 32, p[t]); });
    topk_write(team, args, tile, layout, shared, p);
  }
};

struct TopKSumUp {
  using Shared = TopKSumShared;
  QUOIT_DEVICE static void run(const Team& team, const cuda::TileArgs& args, const TileAt& tile,
                               const TopKLayout& layout, Shared& shared) {
    Team::Each<Held> total;
    topk_total(team, args, tile, layout, shared, total);
    team.each([&](unsigned t) {
      const RowAt row = row_of(tile, t);
      store_row<Neighbours>(total[t], tile.data, tile.dtype, row, t % 32);
      if (tile.residual)
        store_residual<Neighbours>(Held{}, not_finite(total[t]), tile, row, t % 32);
    });
  }
};

struct TopKMerge {
  struct Shared {
    TopKSumShared sum;
    TopKShared out;
  };
  QUOIT_DEVICE static void run(const Team& team, const cuda::TileArgs& args, const TileAt& tile,
                               const TopKLayout& layout, Shared& shared) {
    Team::Each<Held> total;
    topk_total(team, args, tile, layout, shared.sum, total);
    topk_write(team, args, tile, layout, shared.out, total);
  }
};

template <class Step>
QUOIT_DEVICE void run_topk(const Team& team, const cuda::TileArgs& args, unsigned tile,
                           typename Step::Shared& shared) {
  const TileAt at = tile_at(args, tile, topk_bytes(topk_layout(args.topk, kTileCount)));
  Step::run(team, args, at, topk_layout(args.topk, at.count), shared);
}

}  // namespace
}  // namespace quoit
