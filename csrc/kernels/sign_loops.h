#pragma once
// The loops of compress/sign.cpp. Include lanes_plain.h or lanes_avx2.h first.
#include "kernels/mix.h"
#include "kernels/sign_format.h"
#include "kernels/source_loops.h"

namespace quoit {
namespace {

// ---- Encoding.

// Of a block, of which the elements beyond `count` are 0: that of the sum of magnitudes, which
// overflows where they are large. NaN where one is not finite.
std::uint16_t scale_of_block(const float* x, std::size_t count, float sum) {
  constexpr float kSmaller = 0.5F / kSignBlock;
  const auto size = static_cast<float>(count);
  if (sum < __builtin_inff()) return sign_scale(sum / size);
  Magnitudes parts;
  for (std::size_t i = 0; i < kSignBlock; i += kSignWord)
    static_cast<void>(signs_32<false, false>(x + i, kSmaller, nullptr, 0, nullptr, parts));
  const float part = parts.total();
  return part < __builtin_inff() ? sign_scale(part / size * (1 / kSmaller)) : kBFloat16NaN;
}

void keep_residual(const Source& from, const float* x, float scale, const std::uint32_t* words) {
  for (std::size_t w = 0; w * kSignWord < from.count; ++w) {
    const std::size_t begin = w * kSignWord;
    const std::size_t count = from.count - begin < kSignWord ? from.count - begin : kSignWord;
    const std::uint32_t word = words[w];
    const float* __restrict in = x + begin;
    float* __restrict out = from.residual + begin;
    for (std::size_t i = 0; i < count; ++i) {
      out[i] = lost(in[i], sign_value(scale, word & kSignBit.at[i]), from.per_unit);
    }
  }
}

// Whole words from `at` on. Returns the sum of magnitudes.
template <bool kCarried>
float signs_of(const Source& from, std::size_t at, float* x, std::uint32_t* words) {
  const float* const in = from.in + at;
  const float* const carried = kCarried ? from.carried + at : nullptr;
  Magnitudes sum;
  for (std::size_t i = 0; i < kSignBlock; i += kSignWord) {
    for (std::size_t k = i; k < i + kSignWord; k += 16) {
      __builtin_prefetch(in + kAhead + k);
      if (kCarried) __builtin_prefetch(carried + kAhead + k, 1);
    }
    words[i / kSignWord] = signs_32<kCarried, true>(
        in + i, from.scale, kCarried ? carried + i : nullptr, from.unit, x + i, sum);
  }
  return sum.total();
}

void sign_encode(const Source& from, std::byte* out) {
  std::byte* words_out = out + sign_scale_bytes(from.count);
  for (std::byte* pad = out; pad < words_out; pad += 4) __builtin_memset(pad, 0, 4);
  alignas(64) float x[kSignBlock];
  for (std::size_t begin = 0; begin < from.count; begin += kSignBlock) {
    const std::size_t left = from.count - begin;
    const Source block = part_of(from, begin, left < kSignBlock ? left : kSignBlock);
    std::uint32_t words[kSignWords];
    float sum;
    if (left >= kSignBlock) {
      sum = (from.carried ? signs_of<true> : signs_of<false>)(from, begin, x, words);
    } else {
      load_source(block, x);
      for (std::size_t i = left; i < kSignBlock; ++i) x[i] = 0;
      sum = signs_of<false>({.in = x}, 0, x, words);
    }
    const std::uint16_t scale = scale_of_block(x, block.count, sum);
    __builtin_memcpy(out + begin / kSignBlock * sizeof scale, &scale, sizeof scale);
    const std::size_t used = (block.count + kSignWord - 1) / kSignWord;
    for (std::size_t w = 0; w < used; ++w) {
      if (scale == kBFloat16NaN) words[w] = 0;
      __builtin_memcpy(words_out, words + w, sizeof words[w]);
      words_out += sizeof words[w];
    }
    if (block.residual && scale != kBFloat16NaN)
      keep_residual(block, x, float_from_bf16(scale), words);
  }
}

// ---- Decoding.

std::uint16_t sign_scale_at(const std::byte* tile, std::size_t block) {
  std::uint16_t scale;
  __builtin_memcpy(&scale, tile + block * sizeof scale, sizeof scale);
  return scale;
}

template <bool kAdd>
void sign_decode(const std::byte* in, float* out, std::size_t count) {
  const std::byte* words = in + sign_scale_bytes(count);
  for (std::size_t begin = 0; begin < count; begin += kSignWord, words += sizeof(std::uint32_t)) {
    const float scale = float_from_bf16(sign_scale_at(in, begin / kSignBlock));
    std::uint32_t word;
    __builtin_memcpy(&word, words, sizeof word);
    float* const at = out + begin;
    const std::size_t now = count - begin < kSignWord ? count - begin : kSignWord;
    for (std::size_t i = 0; i < now; ++i) {
      const float value = sign_value(scale, word & kSignBit.at[i]);
      at[i] = kAdd ? at[i] + value : value;
    }
  }
}

// ---- Majority votes, 32 elements at a time: plane k holds bit k of how many said "negative".

struct Votes {
  std::uint32_t planes[32][kSignWords];
  int used = 0;          // planes
  std::size_t cast = 0;  // by so many

  void add(const std::uint32_t* negative) {
    ++cast;
    if (cast >> used != 0) __builtin_memset(planes[used++], 0, sizeof planes[0]);
    std::uint32_t carry[kSignWords];
    for (std::size_t w = 0; w < kSignWords; ++w) carry[w] = negative[w];
    for (int k = 0; k < used; ++k) {
      for (std::size_t w = 0; w < kSignWords; ++w) {
        const std::uint32_t both = planes[k][w] & carry[w];
        planes[k][w] ^= carry[w];
        carry[w] = both;
      }
    }
  }

  // A bit is set where more than half said "negative", or half did and `ties` has it set.
  void decide(std::uint32_t ties, std::uint32_t* negative) const {
    std::uint32_t more[kSignWords] = {};
    std::uint32_t equal[kSignWords];  // so far, from the highest plane on, to half of the votes
    for (std::size_t w = 0; w < kSignWords; ++w) equal[w] = ~0U;
    for (int k = used; k-- > 0;) {
      const std::uint32_t half = (cast / 2) >> k & 1 ? ~0U : 0U;
      for (std::size_t w = 0; w < kSignWords; ++w) {
        more[w] |= equal[w] & planes[k][w] & ~half;
        equal[w] &= ~(planes[k][w] ^ half);
      }
    }
    if (cast % 2 != 0) ties = 0;  // what equals half of them, rounded down, is the minority
    for (std::size_t w = 0; w < kSignWords; ++w) negative[w] = more[w] | (equal[w] & ties);
  }
};

void sign_vote(const SignVote& vote, float* out) {
  const std::size_t words_at = sign_scale_bytes(vote.count);
  const std::uint32_t ties = (mix_64(vote.key) & 1) != 0 ? 0x55555555U : 0xaaaaaaaaU;
  for (std::size_t begin = 0; begin < vote.count; begin += kSignBlock) {
    const std::size_t left = vote.count - begin;
    const std::size_t count = left < kSignBlock ? left : kSignBlock;
    const std::size_t bytes = (count + kSignWord - 1) / kSignWord * sizeof(std::uint32_t);
    Votes votes;
    std::uint32_t words[kSignWords] = {};
    float scale = 0;
    for (std::size_t k = 0; k < vote.ranks; ++k) {
      const std::byte* const tile = vote.from[k];
      const float theirs = float_from_bf16(sign_scale_at(tile, begin / kSignBlock));
      if (theirs == 0) continue;
      scale += theirs;
      __builtin_memcpy(words, tile + words_at + begin / kSignWord * sizeof words[0], bytes);
      votes.add(words);
    }
    if (vote.divide_by > 1) scale /= static_cast<float>(vote.divide_by);
    votes.decide(votes.cast > 0 ? ties : 0, words);
    for (std::size_t i = 0; i < count; ++i) {
      out[begin + i] = sign_value(scale, words[i / kSignWord] & kSignBit.at[i % kSignWord]);
    }
  }
}

constexpr SignKernels kSignKernels{
    .encode = sign_encode,
    .decode = sign_decode<false>,
    .add = sign_decode<true>,
    .vote = sign_vote,
};

}  // namespace
}  // namespace quoit
