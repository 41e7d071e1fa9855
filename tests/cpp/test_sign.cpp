// The codecs "sign" and "sign(vote)" against references that share no code with them, bit for bit,
// on every instruction set of this machine. Prints what failed; returns non-zero then.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "checks.h"
#include "compress/codec.h"
#include "reduce_reference.h"

using namespace quoit;

namespace {

constexpr std::array<std::size_t, 12> kCounts{1,   2,   31,   32,   33,   255,
                                              256, 257, 1000, 4063, 4095, 4096};
constexpr float kHuge = std::numeric_limits<float>::max();
constexpr float kGuard = -7.25F;
using Floats = std::vector<float>;
using Bytes = std::vector<std::byte>;

std::mt19937_64 random_bits(2026);

Floats normal(std::size_t count) {
  std::normal_distribution<float> draw;
  Floats x(count);
  for (float& value : x) value = draw(random_bits);
  return x;
}

bool same(const float* a, const float* b, std::size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

std::vector<Isa> isas() {
  std::vector<Isa> found;
  for (const Isa isa : {Isa::Baseline, Isa::X86V3, Isa::X86V4}) {
    if (isa_available(isa)) found.push_back(isa);
  }
  return found;
}

// ---- References.

// Lane l of 16 sums the elements l, l + 16, ...; then halves are added until one is left.
float lane_sum(const Floats& block, float factor) {
  std::array<float, 16> lanes{};
  for (std::size_t i = 0; i < block.size(); ++i) lanes[i % 16] += std::fabs(block[i]) * factor;
  for (std::size_t half = 8; half > 0; half /= 2) {
    for (std::size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

float reference_scale(const Floats& block) {
  if (!std::all_of(block.begin(), block.end(), [](float x) { return std::isfinite(x); })) {
    return NAN;
  }
  const auto size = static_cast<float>(block.size());
  float mean = lane_sum(block, 1) / size;
  if (!std::isfinite(mean)) mean = lane_sum(block, 0x1p-8F) / size * 256;
  const auto scale = static_cast<float>(widen(kBrain, narrow(kBrain, mean)));
  return std::isinf(scale) ? 0x1.fep127F : scale;
}

Floats reference_decode(const Floats& p) {
  Floats out;
  for (std::size_t begin = 0; begin < p.size(); begin += 256) {
    const auto first = p.begin() + static_cast<std::ptrdiff_t>(begin);
    const Floats block(
        first, first + static_cast<std::ptrdiff_t>(std::min<std::size_t>(256, p.size() - begin)));
    const float scale = reference_scale(block);
    for (const float x : block) out.push_back(std::isnan(scale) ? scale : x < 0 ? -scale : scale);
  }
  return out;
}

// ---- Encoding, decoding and what is lost.

void check(const Floats& in, const Floats& carried, bool aliased, const std::string& what) {
  const std::size_t count = in.size();
  Floats p(count);
  const float scale = 0.25F, unit = 8;
  for (std::size_t i = 0; i < count; ++i) {
    p[i] = in[i] * scale;
    if (!carried.empty()) p[i] += carried[i] * unit;
  }
  const Floats decoded = reference_decode(p);
  Bytes first;
  for (const Isa isa : isas()) {
    const CodecPtr codec = codec_named("sign", isa);
    const std::size_t bytes = codec->bytes(count);
    const std::string who = text(name_of(isa), " ", what, " x ", count);
    EXPECT(bytes % 4 == 0, who, ": bytes");
    Bytes tile(bytes + 8, std::byte{0xa5});
    // One float off any larger alignment, a guard on either side.
    Floats source(count + 1), kept(count + 3, kGuard), out(count + 3, kGuard);
    std::copy(in.begin(), in.end(), source.begin() + 1);
    if (aliased) std::copy(carried.begin(), carried.end(), kept.begin() + 1);
    Source from{.in = source.data() + 1, .count = count, .scale = scale};
    if (!carried.empty()) from.carried = aliased ? kept.data() + 1 : carried.data();
    from.residual = kept.data() + 1;
    from.unit = unit;
    from.per_unit = 1 / unit;
    const Floats before(kept.begin() + 1, kept.begin() + 1 + static_cast<std::ptrdiff_t>(count));
    codec->encode(from, tile.data() + 4);
    for (const std::size_t at : {std::size_t{0}, std::size_t{3}, bytes + 4, bytes + 7}) {
      EXPECT(tile[at] == std::byte{0xa5}, who, ": wrote outside");
    }
    if (first.empty()) first = tile;
    EXPECT(tile == first, who, ": other bytes than on the first instruction set");
    codec->decode(tile.data() + 4, out.data() + 1, count);
    Floats sum(count, 3.5F);
    codec->add(tile.data() + 4, sum.data(), count);
    for (std::size_t i = 0; i < count; ++i) {
      const float left = std::isnan(decoded[i]) ? before[i] : (p[i] - decoded[i]) * (1 / unit);
      const float added = 3.5F + decoded[i];
      const bool nan = std::isnan(decoded[i]);
      EXPECT(nan ? std::isnan(out[i + 1]) : same(&out[i + 1], &decoded[i], 1), who, ": decoded ", i,
             " as ", out[i + 1], ", not ", decoded[i]);
      EXPECT(nan ? std::isnan(sum[i]) : same(&sum[i], &added, 1), who, ": added ", i);
      EXPECT(same(&kept[i + 1], &left, 1), who, ": residual ", i, " is ", kept[i + 1], ", not ",
             left);
    }
    for (const Floats* const guarded : {&kept, &out}) {
      EXPECT(guarded->front() == kGuard && (*guarded)[count + 1] == kGuard, who, ": guards");
    }
  }
}

void test_codec() {
  for (const std::size_t count : kCounts) {
    const Floats x = normal(count), carried = normal(count);
    check(x, {}, false, "normal");
    check(x, carried, false, "carried");
    check(x, carried, true, "in place");
    check(Floats(count, 0.0F), {}, false, "zeros");
    check(Floats(count, -0.0F), {}, false, "negative zeros");
    check(Floats(count, 1e-44F), {}, false, "subnormal");
    check(Floats(count, kHuge), Floats(count, kHuge / 16), true, "a sum that overflows");
    check(Floats(count, kHuge), Floats(count, kHuge / 32 * 3), true, "the largest of all");
    for (const float bad : {INFINITY, -INFINITY, NAN}) {
      Floats broken = x;
      broken[count / 2] = bad;
      check(broken, carried, true, "not finite");
    }
  }
}

// ---- Votes.

void test_votes(std::size_t ranks, std::size_t count, std::uint64_t divide_by, std::uint64_t key) {
  std::vector<Floats> parts;
  for (std::size_t k = 0; k < ranks; ++k) parts.push_back(normal(count));
  for (std::size_t i = 0; i < std::min<std::size_t>(256, count); ++i) {
    parts[0][i] = 0;  // no vote on the first block
    if (ranks == 1 || count > 1000) continue;
    for (std::size_t k = 1; k < ranks; ++k) parts[k][i] = 0;  // nobody's
  }
  if (count > 3000 && ranks > 2) parts[2][2900] = NAN;
  std::vector<Floats> decoded;
  for (const Floats& part : parts) decoded.push_back(reference_decode(part));
  Floats first;
  for (const Isa isa : isas()) {
    const CodecPtr codec = codec_named("sign(vote)", isa);
    const std::size_t owner = ranks / 2;
    std::vector<Bytes> tiles(ranks, Bytes(codec->bytes(count)));
    Floats residual(count, kGuard), out(count);
    Contributions from{.own = {}, .theirs = {}, .divide_by = divide_by};
    std::vector<const std::byte*> theirs;
    for (std::size_t k = 0; k < ranks; ++k) {
      const Source source{.in = parts[k].data(), .count = count};
      codec->encode(source, tiles[k].data());
      theirs.push_back(k == owner ? nullptr : tiles[k].data());
    }
    from.own = {.in = parts[owner].data(), .count = count};
    from.own.residual = residual.data();
    from.own.key = key;
    from.theirs = theirs;
    codec->sum(from, out.data());
    const std::string who = text(name_of(isa), " vote of ", ranks, " x ", count);
    EXPECT(residual == Floats(count, kGuard), who, ": wrote the owner's residual");
    if (first.empty()) first = out;
    EXPECT(same(out.data(), first.data(), count), who, ": differs from the first instruction set");
    for (std::size_t i = 0; i < count; ++i) {
      float scale = 0;
      int balance = 0;
      for (const Floats& d : decoded) {
        if (d[i] == 0) continue;
        scale += std::fabs(d[i]);
        balance += d[i] < 0 ? -1 : 1;
      }
      if (divide_by > 1) scale /= static_cast<float>(divide_by);
      if (std::isnan(scale)) {
        EXPECT(std::isnan(out[i]), who, ": NaN was lost at ", i);
      } else {
        EXPECT(std::fabs(out[i]) == scale, who, ": ", i, " is ", out[i], ", not +-", scale);
        EXPECT(scale == 0 ? !std::signbit(out[i]) : balance == 0 || (out[i] < 0) == (balance < 0),
               who, ": element ", i, " is ", out[i], " with a balance of ", balance);
      }
    }
  }
}

// Ties alternate between neighbours, and keys differ in which of them is negative.
void test_ties() {
  const Floats plus(256, 1.0F), minus(256, -1.0F);
  int begins_negative = 0;
  for (std::uint64_t key = 0; key < 64; ++key) {
    const CodecPtr codec = codec_named("sign(vote)");
    Bytes tile(codec->bytes(256));
    codec->encode({.in = minus.data(), .count = 256}, tile.data());
    const std::array<const std::byte*, 2> theirs{nullptr, tile.data()};
    Contributions from{.own = {.in = plus.data(), .count = 256}, .theirs = theirs, .divide_by = 2};
    from.own.key = key;
    Floats out(256);
    codec->sum(from, out.data());
    for (std::size_t i = 0; i < 256; ++i) {
      EXPECT(out[i] == (i % 2 == 0 ? out[0] : -out[0]) && std::fabs(out[i]) == 1, "tie at ", i);
    }
    begins_negative += out[0] < 0 ? 1 : 0;
  }
  EXPECT(begins_negative > 8 && begins_negative < 56, "ties: ", begins_negative, " of 64");
}

}  // namespace

int main() {
  EXPECT(codec_named("sign")->name() == "sign", "name");
  EXPECT(codec_named("sign(vote)")->name() == "sign(vote)", "name");
  EXPECT(codec_named("sign")->bytes(4096) == 544, "bytes of a whole tile");
  test_codec();
  for (const std::size_t ranks : {1, 2, 3, 4, 5, 8, 17}) {
    for (const std::size_t count : kCounts) test_votes(ranks, count, count % 2 ? ranks : 1, count);
  }
  test_ties();
  return quoit::test::verdict();
}
