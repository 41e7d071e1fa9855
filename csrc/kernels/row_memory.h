#pragma once
// How a warp reads and writes the numbers of a row: 512 of them, 16 in each lane. By 16 bytes at a
// time where all of the row is there and lies at a multiple of 16, else one by one. Include
// device_cuda.h (or the tests' device_plain.h) first.
#include <type_traits>

#include "kernels/cast.h"
#include "kernels/cuda_args.h"
#include "kernels/quantize.h"

namespace quoit {
namespace {

inline constexpr unsigned kRow = 512;
inline constexpr unsigned kHeld = 16;

struct Held {
  float at[kHeld];
};

// Which numbers of a row a lane holds: the i-th lies offset(i) behind its first. Here, of 128
// neighbours, 8 lanes have four neighbours at a time.
struct Fours {
  static constexpr bool kNeighbours = true;
  QUOIT_HOST_DEVICE static constexpr unsigned first(unsigned lane) {
    return lane / 8 * 128 + lane % 8 * 4;
  }
  QUOIT_HOST_DEVICE static constexpr unsigned offset(unsigned i) { return i / 4 * 32 + i % 4; }
};

// Of 256 neighbours 16 lanes have one in 16: the order in which signs want their sum. The lanes of
// a warp still read neighbours.
struct Columns {
  static constexpr bool kNeighbours = false;
  QUOIT_HOST_DEVICE static constexpr unsigned first(unsigned lane) {
    return lane / 16 * 256 + lane % 16;
  }
  QUOIT_HOST_DEVICE static constexpr unsigned offset(unsigned i) { return i * 16; }
};

template <class T, unsigned kCount>
struct __attribute__((may_alias, aligned(sizeof(T) * kCount))) Pack {
  T at[kCount];
};

// Single elements, of memory that has another type for the compiler.
template <class T>
using Element = Pack<T, 1>;

QUOIT_DEVICE inline bool is_aligned(const void* at, unsigned bytes) {
  return reinterpret_cast<std::uintptr_t>(at) % bytes == 0;
}

// ---- Numbers of a tile.

struct AsFloat {
  using Stored = float;
  QUOIT_DEVICE static float widen(float x) { return x; }
  QUOIT_DEVICE static float narrow(float x) { return x; }
};

struct AsBrain {
  using Stored = std::uint16_t;
  QUOIT_DEVICE static float widen(std::uint16_t x) { return float_from_bf16(x); }
  QUOIT_DEVICE static std::uint16_t narrow(float x) { return bf16_from_float(x); }
};

struct AsHalf {
  using Stored = std::uint16_t;
  QUOIT_DEVICE static float widen(std::uint16_t x) { return widen_half(x); }
  QUOIT_DEVICE static std::uint16_t narrow(float x) { return narrow_half(x); }
};

// The row that begins at `begin` of a tile of `count` numbers.
struct RowAt {
  unsigned begin;
  unsigned count;

  [[nodiscard]] QUOIT_DEVICE bool whole() const { return begin + kRow <= count; }
  // How many numbers there are from the lane's first one on; none if not positive.
  [[nodiscard]] QUOIT_DEVICE int left(unsigned first) const {
    return static_cast<int>(count) - static_cast<int>(begin + first);
  }
};

// Of the tile at `data`; 0 beyond the end.
template <class As, class Shape>
QUOIT_DEVICE void load_as(const std::byte* data, const RowAt& row, unsigned lane, Held& held) {
  using Stored = typename As::Stored;
  const unsigned first = Shape::first(lane);
  const auto* const from = reinterpret_cast<const Element<Stored>*>(data) + (row.begin + first);
  if (Shape::kNeighbours && row.whole() && is_aligned(data, 4 * sizeof(Stored))) {
    Pack<Stored, 4> packs[4];
    QUOIT_UNROLL
    for (unsigned g = 0; g < 4; ++g)
      packs[g] = *reinterpret_cast<const Pack<Stored, 4>*>(from + Shape::offset(4 * g));
    QUOIT_UNROLL
    for (unsigned i = 0; i < kHeld; ++i) held.at[i] = As::widen(packs[i / 4].at[i % 4]);
    return;
  }
  const int left = row.left(first);
  QUOIT_UNROLL
  for (unsigned i = 0; i < kHeld; ++i) {
    const bool there = static_cast<int>(Shape::offset(i)) < left;
    held.at[i] = there ? As::widen(from[Shape::offset(i)].at[0]) : 0;
  }
}

// Bit i of `skip`: the lane's i-th number is left as it is.
template <class As, class Shape>
QUOIT_DEVICE void store_as(const Held& held, std::byte* data, const RowAt& row, unsigned lane,
                           std::uint32_t skip) {
  using Stored = typename As::Stored;
  const unsigned first = Shape::first(lane);
  auto* const to = reinterpret_cast<Element<Stored>*>(data) + (row.begin + first);
  if (Shape::kNeighbours && row.whole() && skip == 0 && is_aligned(data, 4 * sizeof(Stored))) {
    QUOIT_UNROLL
    for (unsigned g = 0; g < 4; ++g) {
      Pack<Stored, 4> pack;
      QUOIT_UNROLL
      for (unsigned i = 0; i < 4; ++i) pack.at[i] = As::narrow(held.at[4 * g + i]);
      *reinterpret_cast<Pack<Stored, 4>*>(to + Shape::offset(4 * g)) = pack;
    }
    return;
  }
  const int left = row.left(first);
  QUOIT_UNROLL
  for (unsigned i = 0; i < kHeld; ++i) {
    const bool there = static_cast<int>(Shape::offset(i)) < left;
    if (there && (skip >> i & 1) == 0) to[Shape::offset(i)].at[0] = As::narrow(held.at[i]);
  }
}

template <class Shape>
QUOIT_DEVICE void load_row(const std::byte* data, DType dtype, const RowAt& row, unsigned lane,
                           Held& held) {
  if (dtype == DType::Float32) {
    load_as<AsFloat, Shape>(data, row, lane, held);
  } else if (dtype == DType::BFloat16) {
    load_as<AsBrain, Shape>(data, row, lane, held);
  } else {
    load_as<AsHalf, Shape>(data, row, lane, held);
  }
}

template <class Shape>
QUOIT_DEVICE void store_row(const Held& held, std::byte* data, DType dtype, const RowAt& row,
                            unsigned lane) {
  if (dtype == DType::Float32) {
    store_as<AsFloat, Shape>(held, data, row, lane, 0);
  } else if (dtype == DType::BFloat16) {
    store_as<AsBrain, Shape>(held, data, row, lane, 0);
  } else {
    store_as<AsHalf, Shape>(held, data, row, lane, 0);
  }
}

// ---- Codes: kBytes of them belong together, in words of which the first holds the lowest bits.

template <unsigned kBytes>
inline constexpr unsigned kWords = (kBytes + 3) / 4;

// The accesses that the codes' address allows: all at once, or by words (after a short tile, those
// that follow lie at a multiple of 4), or by bytes.
template <unsigned kBytes>
using Code = std::conditional_t<kBytes == 2, std::uint16_t, std::uint32_t>;
template <unsigned kBytes>
using AllAtOnce = Pack<Code<kBytes>, kWords<kBytes>>;

// From `begin` on, none of `end` or beyond.
template <unsigned kBytes>
QUOIT_DEVICE void store_codes(const std::uint32_t (&words)[kWords<kBytes>], std::byte* codes,
                              unsigned begin, unsigned end) {
  std::byte* const to = codes + begin;
  const bool whole = begin + kBytes <= end;
  if (whole && is_aligned(to, kBytes)) {
    AllAtOnce<kBytes> pack;
    QUOIT_UNROLL
    for (unsigned w = 0; w < kWords<kBytes>; ++w) {
      pack.at[w] = static_cast<Code<kBytes>>(words[w]);
    }
    *reinterpret_cast<AllAtOnce<kBytes>*>(to) = pack;
  } else if (kBytes > 4 && whole && is_aligned(to, 4)) {
    QUOIT_UNROLL
    for (unsigned w = 0; w < kWords<kBytes>; ++w) {
      reinterpret_cast<Element<std::uint32_t>*>(to)[w] = {{words[w]}};
    }
  } else {
    QUOIT_UNROLL
    for (unsigned b = 0; b < kBytes; ++b) {
      if (begin + b < end) to[b] = static_cast<std::byte>(words[b / 4] >> 8 * (b % 4));
    }
  }
}

// 0 beyond the end.
template <unsigned kBytes>
QUOIT_DEVICE void load_codes(const std::byte* codes, unsigned begin, unsigned end,
                             std::uint32_t (&words)[kWords<kBytes>]) {
  const std::byte* const from = codes + begin;
  const bool whole = begin + kBytes <= end;
  if (whole && is_aligned(from, kBytes)) {
    const auto pack = *reinterpret_cast<const AllAtOnce<kBytes>*>(from);
    QUOIT_UNROLL
    for (unsigned w = 0; w < kWords<kBytes>; ++w) words[w] = pack.at[w];
  } else if (kBytes > 4 && whole && is_aligned(from, 4)) {
    QUOIT_UNROLL
    for (unsigned w = 0; w < kWords<kBytes>; ++w) {
      words[w] = reinterpret_cast<const Element<std::uint32_t>*>(from)[w].at[0];
    }
  } else {
    QUOIT_UNROLL
    for (unsigned w = 0; w < kWords<kBytes>; ++w) words[w] = 0;
    QUOIT_UNROLL
    for (unsigned b = 0; b < kBytes; ++b) {
      if (begin + b < end) words[b / 4] |= static_cast<std::uint32_t>(from[b]) << 8 * (b % 4);
    }
  }
}

// A scale, of two bytes at an even address.
QUOIT_DEVICE inline std::uint16_t load_scale(const std::byte* at) {
  return reinterpret_cast<const Element<std::uint16_t>*>(at)->at[0];
}
QUOIT_DEVICE inline void store_scale(std::byte* at, std::uint32_t scale) {
  *reinterpret_cast<Element<std::uint16_t>*>(at) = {{static_cast<std::uint16_t>(scale)}};
}

}  // namespace
}  // namespace quoit
