#pragma once
// What a warp does with a row of numbers, in the formats of blocks: the twins of *_loops.h. A
// Format has
//   kLayout                                   a BlockLayout, as on the CPU
//   Shape                                     which numbers a lane holds
//   static void encode(warp, p, place, coded) all lanes' numbers -> their codes, scales, zero
//   points static void decode(warp, coded, place, out)
// Every lane that shares a block knows its scale.
#include "kernels/row_memory.h"

namespace quoit {
namespace {

// Of a row: where it begins in its tile, how many numbers that has, and its key.
struct Place {
  unsigned begin;
  unsigned count;
  std::uint64_t key;

  // Of a lane's i-th number, in the tile.
  template <class Shape>
  [[nodiscard]] QUOIT_DEVICE unsigned index(unsigned lane, unsigned i) const {
    return begin + Shape::first(lane) + Shape::offset(i);
  }
};

// What a lane holds of an encoded row: the codes of four times four neighbours; and what stands
// before the codes of a block, of which 128 numbers have one or two.
template <BlockLayout kLayout>
struct Coded {
  static constexpr unsigned kBytes = kLayout.bits / 2;  // of four codes
  static constexpr unsigned kParts = 128 / kLayout.block;
  std::uint32_t words[4][kWords<kBytes>];
  std::uint32_t scale[kParts];
  std::int32_t zero[kParts];

  // To its places in a tile of `count` numbers; the row begins at `begin`.
  QUOIT_DEVICE void store(std::byte* tile, const RowAt& row, unsigned lane) const {
    const auto [blocks, end] = sizes(row.count);
    const unsigned block = (row.begin + lane / 8 * 128) / kLayout.block;
    if (kLayout.header > 0 && lane % 8 == 0) {
      QUOIT_UNROLL
      for (unsigned part = 0; part < kParts; ++part) {
        if (block + part >= blocks) break;
        store_scale(tile + 2 * (block + part), scale[part]);
        if (kLayout.header > 2)
          tile[2 * blocks + block + part] = static_cast<std::byte>(zero[part]);
      }
    }
    std::byte* const codes = tile + kLayout.header * blocks;
    QUOIT_UNROLL
    for (unsigned g = 0; g < 4; ++g) {
      const unsigned at = row.begin + Fours::first(lane) + Fours::offset(4 * g);
      store_codes<kBytes>(words[g], codes, at / 4 * kBytes, end);
    }
    if (row.begin == 0 && lane == 0) {  // what rounds the tile up
      for (unsigned at = kLayout.header * blocks + end; at % 4 != 0; ++at) tile[at] = std::byte{0};
    }
  }

  QUOIT_DEVICE void load(const std::byte* tile, const RowAt& row, unsigned lane) {
    const auto [blocks, end] = sizes(row.count);
    const unsigned block = (row.begin + lane / 8 * 128) / kLayout.block;
    QUOIT_UNROLL
    for (unsigned part = 0; part < kParts; ++part) {
      const bool there = kLayout.header > 0 && block + part < blocks;
      scale[part] = there ? load_scale(tile + 2 * (block + part)) : 0;
      zero[part] = there && kLayout.header > 2
                       ? static_cast<std::int32_t>(tile[2 * blocks + block + part])
                       : 0;
    }
    const std::byte* const codes = tile + kLayout.header * blocks;
    QUOIT_UNROLL
    for (unsigned g = 0; g < 4; ++g) {
      const unsigned at = row.begin + Fours::first(lane) + Fours::offset(4 * g);
      load_codes<kBytes>(codes, at / 4 * kBytes, end, words[g]);
    }
  }

 private:
  struct Sizes {
    unsigned blocks;
    unsigned end;  // of the codes, in bytes
  };
  QUOIT_DEVICE static Sizes sizes(unsigned count) {
    constexpr BlockLayout layout = kLayout;
    return {static_cast<unsigned>(blocks_of(layout, count)),
            static_cast<unsigned>(code_bytes(layout, count))};
  }
};

// The largest of eight lanes, in all of them.
QUOIT_DEVICE inline void largest_of_eight(const Warp& warp, Warp::Each<std::int32_t>& x) {
  QUOIT_UNROLL
  for (unsigned bits = 1; bits < 8; bits *= 2) {
    const auto other = warp.across(x, bits);
    warp.each([&](unsigned lane) { x[lane] = x[lane] > other[lane] ? x[lane] : other[lane]; });
  }
}

QUOIT_DEVICE inline std::int32_t largest_magnitude_of(const Held& p) {
  std::int32_t largest = 0;
  QUOIT_UNROLL
  for (unsigned i = 0; i < kHeld; ++i) {
    const std::int32_t magnitude = magnitude_of(p.at[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

// ---- One scale, and a byte for each number.

template <class Code>
struct ByteRows {
  static constexpr BlockLayout kLayout = Code::kLayout;
  using Shape = Fours;
  using Lane = Coded<kLayout>;

  QUOIT_DEVICE static void encode(const Warp& warp, const Warp::Each<Held>& p, const Place&,
                                  Warp::Each<Lane>& coded) {
    Warp::Each<std::int32_t> largest;
    warp.each([&](unsigned lane) { largest[lane] = largest_magnitude_of(p[lane]); });
    largest_of_eight(warp, largest);
    warp.each([&](unsigned lane) {
      const Scale scale = scale_of(largest[lane], Code::kLargest);
      const bool finite = largest[lane] < kInfinite;
      Lane& mine = coded[lane];
      mine.scale[0] = scale.stored;
      mine.zero[0] = 0;
      QUOIT_UNROLL
      for (unsigned g = 0; g < 4; ++g) {
        std::uint32_t word = 0;
        QUOIT_UNROLL
        for (unsigned i = 0; i < 4; ++i) {
          const float x = p[lane].at[4 * g + i] * scale.inverse;
          word |= (Code::of(finite ? x : 0) & 0xff) << 8 * i;
        }
        mine.words[g][0] = word;
      }
    });
  }

  QUOIT_DEVICE static void decode(const Warp& warp, const Warp::Each<Lane>& coded, const Place&,
                                  Warp::Each<Held>& out) {
    warp.each([&](unsigned lane) {
      const float scale = float_from_bits16(coded[lane].scale[0]);
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) {
        const std::uint32_t code = coded[lane].words[i / 4][0] >> 8 * (i % 4);
        out[lane].at[i] = Code::value(static_cast<std::uint8_t>(code), scale);
      }
    });
  }
};

struct Int8Code {
  static constexpr BlockLayout kLayout = kInt8Layout;
  static constexpr std::int32_t kLargest = kInt8Largest;
  QUOIT_DEVICE static std::uint32_t of(float x) { return static_cast<std::uint32_t>(rounded(x)); }
  QUOIT_DEVICE static float value(std::uint8_t code, float scale) {
    return scaled(static_cast<std::int8_t>(code), scale);
  }
};

struct Fp8Code {
  static constexpr BlockLayout kLayout = kFp8Layout;
  static constexpr std::int32_t kLargest = kE4m3Largest;
  QUOIT_DEVICE static std::uint32_t of(float x) { return e4m3_from_float(x); }
  QUOIT_DEVICE static float value(std::uint8_t code, float scale) {
    return float_from_e4m3(code) * scale;
  }
};

// ---- The range of a block, in four bits: see Grid.

struct Int4Rows {
  static constexpr BlockLayout kLayout = kInt4Layout;
  using Shape = Fours;
  using Lane = Coded<kLayout>;

  QUOIT_DEVICE static void encode(const Warp& warp, const Warp::Each<Held>& p, const Place&,
                                  Warp::Each<Lane>& coded) {
    QUOIT_UNROLL
    for (unsigned part = 0; part < 2; ++part) {
      Warp::Each<std::int32_t> above, below;
      warp.each([&](unsigned lane) {
        std::int32_t most = 0, least = 0;
        QUOIT_UNROLL
        for (unsigned i = 8 * part; i < 8 * part + 8; ++i) {
          const std::int32_t up = above_zero(p[lane].at[i]), down = below_zero(p[lane].at[i]);
          most = up > most ? up : most;
          least = down > least ? down : least;
        }
        above[lane] = most;
        below[lane] = least;
      });
      largest_of_eight(warp, above);
      largest_of_eight(warp, below);
      warp.each([&](unsigned lane) {
        const Grid grid = grid_of(above[lane], below[lane]);
        Lane& mine = coded[lane];
        mine.scale[part] = grid.scale.stored;
        mine.zero[part] = grid.zero;
        QUOIT_UNROLL
        for (unsigned g = 2 * part; g < 2 * part + 2; ++g) {
          std::uint32_t word = 0;
          QUOIT_UNROLL
          for (unsigned i = 0; i < 4; ++i) {
            const std::int32_t code = code_on(grid.scale.inverse, grid.least, grid.most, grid.zero,
                                              p[lane].at[4 * g + i]);
            word |= static_cast<std::uint32_t>(code) << 4 * i;
          }
          mine.words[g][0] = word;
        }
      });
    }
  }

  QUOIT_DEVICE static void decode(const Warp& warp, const Warp::Each<Lane>& coded, const Place&,
                                  Warp::Each<Held>& out) {
    warp.each([&](unsigned lane) {
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) {
        const auto code =
            static_cast<std::int32_t>(coded[lane].words[i / 4][0] >> 4 * (i % 4) & 15);
        out[lane].at[i] =
            scaled(code - coded[lane].zero[i / 8], float_from_bits16(coded[lane].scale[i / 8]));
      }
    });
  }
};

// ---- Every number by itself.

template <bool kStochastic>
struct Bf16Rows {
  static constexpr BlockLayout kLayout = kBf16Layout;
  using Shape = Fours;
  using Lane = Coded<kLayout>;

  QUOIT_DEVICE static void encode(const Warp& warp, const Warp::Each<Held>& p, const Place& place,
                                  Warp::Each<Lane>& coded) {
    const auto key = static_cast<std::uint32_t>(mix_64(place.key));
    warp.each([&](unsigned lane) {
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) {
        const float x = p[lane].at[i];
        std::uint32_t code = bf16_from_float(x);
        if constexpr (kStochastic)
          code = bf16_at_random(x, mix_32(counter(key, place.index<Shape>(lane, i))));
        std::uint32_t& word = coded[lane].words[i / 4][i % 4 / 2];
        word = i % 2 == 0 ? code : word | code << 16;
      }
    });
  }

  QUOIT_DEVICE static void decode(const Warp& warp, const Warp::Each<Lane>& coded, const Place&,
                                  Warp::Each<Held>& out) {
    warp.each([&](unsigned lane) {
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) {
        const std::uint32_t word = coded[lane].words[i / 4][i % 4 / 2];
        out[lane].at[i] = float_from_bits16(i % 2 == 0 ? word & 0xffff : word >> 16);
      }
    });
  }
};

// float32 itself: see compress/raw.cpp.
struct RawRows {
  static constexpr BlockLayout kLayout{.block = 128, .header = 0, .bits = 32};
  using Shape = Fours;
  using Lane = Coded<kLayout>;

  QUOIT_DEVICE static void encode(const Warp& warp, const Warp::Each<Held>& p, const Place&,
                                  Warp::Each<Lane>& coded) {
    warp.each([&](unsigned lane) {
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i)
        coded[lane].words[i / 4][i % 4] = __builtin_bit_cast(std::uint32_t, p[lane].at[i]);
    });
  }

  QUOIT_DEVICE static void decode(const Warp& warp, const Warp::Each<Lane>& coded, const Place&,
                                  Warp::Each<Held>& out) {
    warp.each([&](unsigned lane) {
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i)
        out[lane].at[i] = __builtin_bit_cast(float, coded[lane].words[i / 4][i % 4]);
    });
  }
};

}  // namespace
}  // namespace quoit
