#pragma once
// int4 after a random rotation: the twin of Int4HadamardFormat. The butterflies of a block run in
// the order of butterfly.h: of neighbours in a lane, between lanes, of what lies far apart in a
// lane again.
#include "kernels/row_formats.h"

namespace quoit {
namespace {

// The lane's numbers that differ by `bit` in their place -> their sum, their difference.
QUOIT_DEVICE inline void butterfly_within(Held& x, unsigned bit) {
  QUOIT_UNROLL
  for (unsigned i = 0; i < kHeld; ++i) {
    if ((i & bit) != 0) continue;
    const float a = x.at[i], b = x.at[i + bit];
    x.at[i] = a + b;
    x.at[i + bit] = a - b;
  }
}

QUOIT_DEVICE inline void butterfly_across(const Warp& warp, Warp::Each<Held>& x, unsigned bit) {
  QUOIT_UNROLL
  for (unsigned i = 0; i < kHeld; ++i) {
    Warp::Each<float> own;
    warp.each([&](unsigned lane) { own[lane] = x[lane].at[i]; });
    const auto other = warp.across(own, bit);
    warp.each([&](unsigned lane) {
      x[lane].at[i] = (lane & bit) == 0 ? own[lane] + other[lane] : other[lane] - own[lane];
    });
  }
}

// Of every 128 numbers: strides of 1 and 2, of 4 to 16, of 32 and 64.
QUOIT_DEVICE inline void rotate(const Warp& warp, Warp::Each<Held>& x) {
  warp.each([&](unsigned lane) {
    butterfly_within(x[lane], 1);
    butterfly_within(x[lane], 2);
  });
  butterfly_across(warp, x, 1);
  butterfly_across(warp, x, 2);
  butterfly_across(warp, x, 4);
  warp.each([&](unsigned lane) {
    butterfly_within(x[lane], 4);
    butterfly_within(x[lane], 8);
  });
}

struct Int4HadamardRows {
  static constexpr BlockLayout kLayout = kInt4HadamardLayout;
  using Shape = Fours;
  using Lane = Coded<kLayout>;

  QUOIT_DEVICE static void encode(const Warp& warp, const Warp::Each<Held>& p, const Place& place,
                                  Warp::Each<Lane>& coded) {
    Warp::Each<std::int32_t> given, largest;
    Warp::Each<Held> rotated;
    warp.each([&](unsigned lane) {
      given[lane] = largest_magnitude_of(p[lane]);
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) {
        rotated[lane].at[i] =
            with_random_sign(p[lane].at[i] * (1.0F / kLayout.block), place.index<Shape>(lane, i));
      }
    });
    largest_of_eight(warp, given);
    rotate(warp, rotated);
    warp.each([&](unsigned lane) { largest[lane] = largest_magnitude_of(rotated[lane]); });
    largest_of_eight(warp, largest);
    warp.each([&](unsigned lane) {
      const Scale scale = scale_of(largest[lane], kInt4Largest);
      const bool finite = given[lane] < kHadamardInfinite;
      Lane& mine = coded[lane];
      mine.scale[0] = finite ? scale.stored : kBFloat16NaN;
      mine.zero[0] = 0;
      QUOIT_UNROLL
      for (unsigned g = 0; g < 4; ++g) {
        std::uint32_t word = 0;
        QUOIT_UNROLL
        for (unsigned i = 0; i < 4; ++i) {
          const std::int32_t code =
              rounded(rotated[lane].at[4 * g + i] * scale.inverse) + kInt4Zero;
          word |= static_cast<std::uint32_t>(code) << 4 * i;
        }
        mine.words[g][0] = finite ? word & 0xffff : 0;
      }
    });
  }

  QUOIT_DEVICE static void decode(const Warp& warp, const Warp::Each<Lane>& coded,
                                  const Place& place, Warp::Each<Held>& out) {
    warp.each([&](unsigned lane) {
      const float scale = float_from_bits16(coded[lane].scale[0]);
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) {
        const auto code =
            static_cast<std::int32_t>(coded[lane].words[i / 4][0] >> 4 * (i % 4) & 15);
        out[lane].at[i] = scaled(code - kInt4Zero, scale);
      }
    });
    rotate(warp, out);
    warp.each([&](unsigned lane) {
      const float scale = float_from_bits16(coded[lane].scale[0]);
      QUOIT_UNROLL
      for (unsigned i = 0; i < kHeld; ++i) {
        const float value = with_random_sign(out[lane].at[i], place.index<Shape>(lane, i));
        out[lane].at[i] = scale > 0 ? value : scale;
      }
    });
  }
};

}  // namespace
}  // namespace quoit
