#pragma once
// Signs: the twin of sign_loops.h. A block's sum goes through 16 lanes in the order that
// Magnitudes have on the CPU (lanes_plain.h).
#include "kernels/row_formats.h"
#include "kernels/sign_format.h"

namespace quoit {
namespace {

// What a lane holds of a row of signs: those of its own numbers, a bit each. Where they are stored,
// eight lanes of a block have a word each, in its order.
struct SignLane {
  std::uint32_t bits;
  std::uint32_t scale;
  std::uint32_t word;

  QUOIT_DEVICE void store(std::byte* tile, const RowAt& row, unsigned lane) const {
    const unsigned begin = row.begin + lane / 16 * static_cast<unsigned>(kSignBlock);
    const auto words_at = static_cast<unsigned>(sign_scale_bytes(row.count));
    const unsigned at = begin + lane % 16 * static_cast<unsigned>(kSignWord);
    if (lane % 16 == 0 && begin < row.count) store_scale(tile + begin / kSignBlock * 2, scale);
    if (lane % 16 < kSignWords && at < row.count) {
      *reinterpret_cast<Element<std::uint32_t>*>(tile + words_at + at / 8) = {{word}};
    }
    if (row.begin == 0 && lane == 0 && ((row.count + kSignBlock - 1) / kSignBlock) % 2 != 0) {
      store_scale(tile + words_at - 2, 0);  // what rounds the scales up
    }
  }

  QUOIT_DEVICE void load(const std::byte* tile, const RowAt& row, unsigned lane) {
    const unsigned begin = row.begin + lane / 16 * static_cast<unsigned>(kSignBlock);
    const std::byte* const words = tile + sign_scale_bytes(row.count) + begin / 8;
    scale = begin < row.count ? load_scale(tile + begin / kSignBlock * 2) : 0;
    bits = 0;
    QUOIT_UNROLL
    for (unsigned w = 0; w < kSignWords; ++w) {
      if (begin + w * kSignWord >= row.count) break;
      const std::uint32_t both =
          reinterpret_cast<const Element<std::uint32_t>*>(words)[w].at[0] >> lane % 16;
      bits |= ((both & 1) | (both >> 15 & 2)) << 2 * w;
    }
  }
};

// The sum of |x| * factor over a block: of each lane's numbers, then pairwise.
QUOIT_DEVICE inline Warp::Each<float> sum_of_sizes(const Warp& warp, const Warp::Each<Held>& x,
                                                   float factor) {
  Warp::Each<float> sum;
  warp.each([&](unsigned lane) {
    sum[lane] = 0;
    QUOIT_UNROLL
    for (unsigned i = 0; i < kHeld; ++i) sum[lane] += __builtin_fabsf(x[lane].at[i]) * factor;
  });
  QUOIT_UNROLL
  for (unsigned half = 8; half > 0; half /= 2) {
    const auto other = warp.across(sum, half);
    warp.each([&](unsigned lane) { sum[lane] += other[lane]; });
  }
  return sum;
}

struct SignRows {
  using Shape = Columns;
  using Lane = SignLane;

  QUOIT_DEVICE static void encode(const Warp& warp, const Warp::Each<Held>& p, const Place& place,
                                  Warp::Each<Lane>& coded) {
    scale_of_blocks(warp, p, place.count, place.begin, coded);
    warp.each([&](unsigned lane) { coded[lane].bits = 0; });
    QUOIT_UNROLL
    for (unsigned w = 0; w < kSignWords; ++w) {
      std::uint32_t both[2];
      QUOIT_UNROLL
      for (unsigned k = 0; k < 2; ++k) {
        Warp::Each<bool> negative;
        warp.each([&](unsigned lane) {
          negative[lane] = p[lane].at[2 * w + k] < 0 && coded[lane].scale != kBFloat16NaN;
          coded[lane].bits |= static_cast<std::uint32_t>(negative[lane]) << (2 * w + k);
        });
        both[k] = warp.ballot(negative);
      }
      warp.each([&](unsigned lane) {
        const unsigned shift = lane / 16 * 16;
        const std::uint32_t word = (both[0] >> shift & 0xffff) | (both[1] >> shift) << 16;
        coded[lane].word = lane % 16 == w ? word : w == 0 ? 0 : coded[lane].word;
      });
    }
  }

  QUOIT_DEVICE static void decode(const Warp& warp, const Warp::Each<Lane>& coded, const Place&,
                                  Warp::Each<Held>& out) {
    warp.each([&](unsigned lane) {
      const float scale = float_from_bits16(coded[lane].scale);
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i)
        out[lane].at[i] = sign_value(scale, coded[lane].bits & 1U << i);
    });
  }

 private:
  // As scale_of_block(), of both blocks at once.
  QUOIT_DEVICE static void scale_of_blocks(const Warp& warp, const Warp::Each<Held>& p,
                                           unsigned count, unsigned row, Warp::Each<Lane>& coded) {
    const auto sum = sum_of_sizes(warp, p, 1);
    Warp::Each<bool> beyond;
    warp.each([&](unsigned lane) {
      beyond[lane] = !(sum[lane] < __builtin_inff());
      coded[lane].scale = sign_scale(sum[lane] / size_of_block(count, row, lane));
    });
    if (warp.ballot(beyond) == 0) return;
    const auto small = sum_of_sizes(warp, p, 1.0F / kSignBlock);
    Warp::Each<std::int32_t> largest;
    warp.each([&](unsigned lane) { largest[lane] = largest_magnitude_of(p[lane]); });
    largest_of_eight(warp, largest);
    const auto others = warp.across(largest, 8);
    warp.each([&](unsigned lane) {
      if (!beyond[lane]) return;
      const bool finite = largest[lane] < kInfinite && others[lane] < kInfinite;
      const float mean = small[lane] / size_of_block(count, row, lane) * kSignBlock;
      coded[lane].scale = finite ? sign_scale(mean) : kBFloat16NaN;
    });
  }

  QUOIT_DEVICE static float size_of_block(unsigned count, unsigned row, unsigned lane) {
    const unsigned begin = row + lane / 16 * static_cast<unsigned>(kSignBlock);
    const unsigned left = begin < count ? count - begin : 1;
    return static_cast<float>(left < kSignBlock ? left : static_cast<unsigned>(kSignBlock));
  }
};

// By majority, of what ranks gave to a row: the twin of sign_vote().
class RowVotes {
 public:
  QUOIT_DEVICE void begin(const Warp& warp) {
    warp.each([&](unsigned lane) { counts_[lane] = {}; });
  }

  QUOIT_DEVICE void add(const Warp& warp, const Warp::Each<SignLane>& theirs) {
    warp.each([&](unsigned lane) {
      Count& count = counts_[lane];
      const float scale = float_from_bits16(theirs[lane].scale);
      if (scale == 0) return;
      count.scale += scale;
      ++count.cast;
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) count.negative[i] += theirs[lane].bits >> i & 1;
    });
  }

  QUOIT_DEVICE void decide(const Warp& warp, std::uint64_t divide_by, std::uint64_t key,
                           Warp::Each<Held>& out) const {
    warp.each([&](unsigned lane) {
      const Count& count = counts_[lane];
      const float scale = divide_by > 1 ? count.scale / static_cast<float>(divide_by) : count.scale;
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) {
        // Of as many votes for either sign, every other element is negative, beginning with the
        // first or the second.
        const bool ties = ((mix_64(key) & 1) != 0) == (Columns::first(lane) % 2 == 0);
        const unsigned twice = 2 * count.negative[i];
        const bool negative = twice > count.cast || (ties && twice == count.cast && twice > 0);
        out[lane].at[i] = sign_value(scale, negative ? 1 : 0);
      }
    });
  }

 private:
  struct Count {
    float scale = 0;
    unsigned cast = 0;
    unsigned negative[kHeld]{};
  };
  Warp::Each<Count> counts_;
};

}  // namespace
}  // namespace quoit
