#pragma once
// The loops of compress/topk.cpp. Include lanes_plain.h or lanes_avx2.h first.
//
// Of 4096 numbers some forty are looked for. While the numbers are loaded, the largest of every
// four is noted; the k-th largest of these cannot be above the k-th largest number, and little
// below it. So it sorts out nearly all of the others, most of them 32 at a time, and few are left
// to choose from. What is chosen does not depend on any of this.
#include "kernels/block_loops.h"
#include "kernels/topk_format.h"

namespace quoit {
namespace {

constexpr std::size_t kTopKRun = 32;  // elements that are looked at together
constexpr std::size_t kTopKLanes =
    8;  // lane l: the largest of the elements l, l + 8, l + 16, l + 24

struct TopKScratch {
  alignas(64) std::int32_t p[kTile];  // the bits of floats; beyond the last element zeros
  alignas(64) std::int32_t maxima[kTile / kTopKRun * kTopKLanes];
  alignas(64) std::int32_t folded[kTile / kTopKRun * kTopKLanes / 2];
  alignas(64) std::int32_t chosen[kTile + kTopKLanes];  // candidates, as in p, in the same order
  alignas(64) std::uint16_t indices[kTile];
};

inline std::int32_t magnitude_of_bits(std::int32_t bits) { return bits & 0x7fffffff; }

// Whole runs.
template <bool kCarried>
void topk_load(const Source& from, std::size_t runs, TopKScratch& scratch) {
  const float scale = from.scale, unit = from.unit;
  for (std::size_t run = 0; run < runs; ++run) {
    const float* const in = from.in + run * kTopKRun;
    const float* const carried = kCarried ? from.carried + run * kTopKRun : nullptr;
    std::int32_t* const __restrict p = scratch.p + run * kTopKRun;
    for (std::size_t i = 0; i < kTopKRun; i += 16) {
      __builtin_prefetch(in + kAhead + i);
      if (kCarried) __builtin_prefetch(carried + kAhead + i, 1);
    }
    for (std::size_t i = 0; i < kTopKRun; ++i) {
      const float scaled = in[i] * scale;
      p[i] = __builtin_bit_cast(std::int32_t, kCarried ? scaled + carried[i] * unit : scaled);
    }
    largest_of_32(p, scratch.maxima + run * kTopKLanes);
  }
}

// Returns how many runs there are.
std::size_t topk_load(const Source& from, TopKScratch& scratch) {
  const std::size_t whole = from.count / kTopKRun, rest = from.count % kTopKRun;
  (from.carried ? topk_load<true> : topk_load<false>)(from, whole, scratch);
  if (rest == 0) return whole;
  float in[kTopKRun]{}, carried[kTopKRun]{};
  Source last = part_of(from, whole * kTopKRun, kTopKRun);
  __builtin_memcpy(in, last.in, rest * sizeof(float));
  last.in = in;
  if (last.carried) {
    __builtin_memcpy(carried, last.carried, rest * sizeof(float));
    last.carried = carried;
  }
  alignas(64) float p[kTopKRun];
  load_source(last, p);
  for (std::size_t l = 0; l < kTopKLanes; ++l) scratch.maxima[whole * kTopKLanes + l] = 0;
  for (std::size_t i = 0; i < kTopKRun; ++i) {
    std::int32_t& most = scratch.maxima[whole * kTopKLanes + i % kTopKLanes];
    const std::int32_t magnitude = magnitude_of(p[i]);
    scratch.p[whole * kTopKRun + i] = __builtin_bit_cast(std::int32_t, p[i]);
    most = magnitude > most ? magnitude : most;
  }
  return whole + 1;
}

// Of `count` magnitudes, a multiple of 8.
std::size_t count_at_least(const std::int32_t* x, std::size_t count, std::int32_t least) {
  std::int32_t lanes[kTopKLanes] = {};
  for (std::size_t i = 0; i < count; i += kTopKLanes) {
    for (std::size_t l = 0; l < kTopKLanes; ++l)
      lanes[l] += magnitude_of_bits(x[i + l]) >= least ? 1 : 0;
  }
  std::int32_t total = 0;
  for (const std::int32_t lane : lanes) total += lane;
  return static_cast<std::size_t>(total);
}

// Where the candidates begin: at least `wanted` numbers are no smaller.
std::int32_t topk_floor(TopKScratch& scratch, std::size_t runs, std::size_t wanted,
                        std::int32_t largest) {
  const std::int32_t* of = scratch.maxima;
  std::size_t count = runs * kTopKLanes;
  while (count / 2 >= 4 * wanted && count % (2 * kTopKLanes) == 0) {
    count /= 2;
    for (std::size_t i = 0; i < count; ++i) {
      const std::int32_t a = of[i], b = of[count + i];
      scratch.folded[i] = a > b ? a : b;
    }
    of = scratch.folded;
  }
  if (4 * wanted > count) {  // too many for the largest of some to tell
    of = scratch.p;
    count = runs * kTopKRun;
  }
  const auto at_least = [&](std::int32_t least) { return count_at_least(of, count, least); };
  TopKBetween between{0, largest + 1, count};
  const std::int32_t eighth = topk_eighth(largest);
  if (eighth > 0) topk_probe(at_least, eighth, wanted, between);
  topk_narrow(at_least, wanted, wanted + wanted / 4, between);
  return between.from;
}

// Returns how many there are. Zeros are none. All is in the cache here, so that memory has time for
// the next tile, of which topk_load() has asked for the beginning: a third of the time.
std::size_t topk_candidates(const Source& from, TopKScratch& scratch, std::size_t runs,
                            std::int32_t least) {
  constexpr std::size_t kRuns = 32 / kTopKLanes;  // of which 32 maxima are
  constexpr std::size_t kStep = kRuns * kTopKRun * (kTile - kAhead) / kTile;
  const float* next = from.in + from.count + kAhead;
  const float* next_carried = from.carried ? from.carried + from.count + kAhead : nullptr;
  std::size_t found = 0;
  for (std::size_t first = 0; first < runs; first += kRuns) {
    std::uint32_t lanes = at_least_32(scratch.maxima + first * kTopKLanes, least);
    for (std::size_t i = 0; i < kStep; i += 16) {
      __builtin_prefetch(next + i);
      if (next_carried) __builtin_prefetch(next_carried + i, 1);
    }
    next += kStep;
    next_carried += next_carried ? kStep : 0;
    for (std::size_t run = first; lanes != 0; ++run, lanes >>= kTopKLanes) {
      if ((lanes & 0xff) == 0) continue;
      std::uint32_t bits = at_least_32(scratch.p + run * kTopKRun, least);
      do {
        const std::size_t at = run * kTopKRun + static_cast<std::size_t>(__builtin_ctz(bits));
        scratch.indices[found] = static_cast<std::uint16_t>(at);
        scratch.chosen[found++] = scratch.p[at];
        bits &= bits - 1;
      } while (bits != 0);
    }
  }
  return found;
}

// Leaves the `wanted` largest candidates; of equal ones, the first.
std::size_t topk_choose(TopKScratch& scratch, std::size_t found, std::size_t wanted,
                        std::int32_t least, std::int32_t largest) {
  if (found <= wanted) return found;
  for (std::size_t i = found; i % kTopKLanes != 0; ++i) scratch.chosen[i] = 0;
  const std::size_t padded = (found + kTopKLanes - 1) / kTopKLanes * kTopKLanes;
  const auto at_least = [&](std::int32_t limit) {
    return count_at_least(scratch.chosen, padded, limit);
  };
  TopKBetween between{least, largest + 1, found};
  topk_narrow(at_least, wanted, wanted, between);
  std::size_t first = 0;  // so many of the least, which are all equal
  if (between.found > wanted) {
    first = wanted - between.beyond;
    ++between.from;
  }
  std::size_t kept = 0;
  for (std::size_t i = 0; i < found; ++i) {
    const std::int32_t bits = scratch.chosen[i], above = magnitude_of_bits(bits) - between.from;
    const bool tied = above == -1 && first > 0;
    first -= tied ? 1 : 0;
    scratch.indices[kept] = scratch.indices[i];
    scratch.chosen[kept] = bits;
    kept += tied || above >= 0 ? 1 : 0;
  }
  return kept;
}

// 12 bits each.
void topk_pack_indices(const std::uint16_t* indices, std::size_t count, std::byte* out) {
  for (std::size_t i = 0; i < count; i += 2, out += 3) {
    const std::uint32_t pair =
        indices[i] | (i + 1 < count ? std::uint32_t{indices[i + 1]} << 12 : 0);
    store16(out, pair);
    if (i + 1 < count) out[2] = static_cast<std::byte>(pair >> 16);
  }
}

// `bits` each, 2, 4 or 8; beyond the last are zeros.
void topk_pack_codes(const std::uint8_t* codes, std::size_t bits, std::size_t count,
                     std::uint8_t* out) {
  if (bits == 8) __builtin_memcpy(out, codes, count);
  if (bits == 4) {
    for (std::size_t i = 0; i < count; i += 2)
      *out++ = static_cast<std::uint8_t>(codes[i] | codes[i + 1] << 4);
  }
  if (bits == 2) {
    for (std::size_t i = 0; i < count; i += 4)
      *out++ = static_cast<std::uint8_t>(codes[i] | codes[i + 1] << 2 | codes[i + 2] << 4 |
                                         codes[i + 3] << 6);
  }
}

// Writes the codes of the numbers that were chosen, and what they lose.
void topk_quantize(const Source& from, const TopKLayout& layout, TopKScratch& scratch,
                   std::size_t kept, std::byte* out) {
  std::int32_t least = magnitude_of_bits(scratch.chosen[0]), largest = least;
  for (std::size_t i = 0; i < kept; ++i) {
    const std::int32_t magnitude = magnitude_of_bits(scratch.chosen[i]);
    least = magnitude < least ? magnitude : least;
    largest = magnitude > largest ? magnitude : largest;
  }
  const std::uint32_t last = topk_last_code(layout.bits);
  const TopKGrid grid = topk_grid(least, largest, last);
  store16(out, grid.low);
  store16(out + 2, grid.step);
  const float low = float_from_bits16(grid.low), step = float_from_bits16(grid.step);
  const float divisor = grid.step == 0 ? __builtin_inff() : step;
  const auto last_code = static_cast<float>(static_cast<std::int32_t>(last));
  alignas(64) std::uint8_t codes[kTile / 4 + 4];
  for (std::size_t i = 0; i < kept; ++i) {
    const std::int32_t bits = scratch.chosen[i];
    const float magnitude = __builtin_bit_cast(float, magnitude_of_bits(bits));
    const std::int32_t code = topk_code(low, divisor, last_code, magnitude);
    codes[i] =
        static_cast<std::uint8_t>(bits < 0 ? code + static_cast<std::int32_t>(last) + 1 : code);
  }
  for (std::size_t i = kept; i < kept + 4; ++i) codes[i] = 0;
  topk_pack_codes(codes, layout.bits, kept,
                  reinterpret_cast<std::uint8_t*>(out + topk_codes_at(layout)));
  if (from.residual == nullptr) return;
  for (std::size_t i = 0; i < kept; ++i) {
    const float p = __builtin_bit_cast(float, scratch.chosen[i]);
    from.residual[scratch.indices[i]] = topk_lost(p, low, step, codes[i] & last, from.per_unit);
  }
}

// What is left of all that is not kept.
void topk_keep(const Source& from, const TopKScratch& scratch) {
  float* const __restrict residual = from.residual;
  for (std::size_t i = 0; i < from.count; ++i)
    residual[i] = __builtin_bit_cast(float, scratch.p[i]) * from.per_unit;
}

void topk_encode(const Source& from, const TopKLayout& layout, std::byte* out) {
  TopKScratch scratch;
  __builtin_memset(out, 0, topk_bytes(layout));
  const std::size_t runs = topk_load(from, scratch);
  for (std::size_t i = runs * kTopKLanes; i % 32 != 0; ++i) scratch.maxima[i] = 0;
  std::int32_t largest = 0;
  for (std::size_t i = 0; i < runs * kTopKLanes; ++i)
    largest = scratch.maxima[i] > largest ? scratch.maxima[i] : largest;
  if (largest >= kInfinite) {
    store16(out, kBFloat16NaN);
    return;
  }
  if (from.residual) topk_keep(from, scratch);
  if (largest == 0) return;
  const std::int32_t floor = topk_floor(scratch, runs, layout.most, largest);
  const std::int32_t least = floor > 0 ? floor : 1;
  const std::size_t found = topk_candidates(from, scratch, runs, least);
  const std::size_t kept = topk_choose(scratch, found, layout.most, least, largest);
  store16(out + 4, static_cast<std::uint32_t>(kept));
  topk_pack_indices(scratch.indices, kept, out + kTopKHeader);
  topk_quantize(from, layout, scratch, kept, out);
}

// call(index, value) for each number that was kept.
template <class Call>
void topk_for_each(const std::byte* in, const TopKLayout& layout, std::size_t count,
                   const Call& call) {
  const float low = float_from_bf16(load16(in)), step = float_from_bf16(load16(in + 2));
  const std::size_t said = load16(in + 4), kept = said < layout.most ? said : layout.most;
  const std::size_t per_byte = 8 / layout.bits;
  const std::uint32_t last = topk_last_code(layout.bits);
  const auto* const codes = reinterpret_cast<const std::uint8_t*>(in + topk_codes_at(layout));
  for (std::size_t i = 0; i < kept; ++i) {
    const std::size_t at = topk_index(load16(in + kTopKHeader + i * 3 / 2), i);
    const std::uint32_t code = codes[i / per_byte] >> (i % per_byte * layout.bits);
    if (at < count) call(at, topk_value(low, step, last, code));
  }
}

bool topk_is_nan(const std::byte* in) { return load16(in) == kBFloat16NaN; }

void topk_decode(const std::byte* in, const TopKLayout& layout, float* out, std::size_t count) {
  if (topk_is_nan(in)) {
    for (std::size_t i = 0; i < count; ++i) out[i] = float_from_bf16(kBFloat16NaN);
    return;
  }
  __builtin_memset(out, 0, count * sizeof(float));
  topk_for_each(in, layout, count, [&](std::size_t at, float value) { out[at] = value; });
}

void topk_add(const std::byte* in, const TopKLayout& layout, float* sum, std::size_t count) {
  if (topk_is_nan(in)) {
    for (std::size_t i = 0; i < count; ++i) sum[i] += float_from_bf16(kBFloat16NaN);
    return;
  }
  topk_for_each(in, layout, count, [&](std::size_t at, float value) { sum[at] += value; });
}

constexpr TopKKernels kTopKKernels{
    .encode = topk_encode,
    .decode = topk_decode,
    .add = topk_add,
};

}  // namespace
}  // namespace quoit
