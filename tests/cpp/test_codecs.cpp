// The codecs of blocks against references, on every instruction set of this machine; what they lose
// against the sum of several ranks. Prints what failed; returns non-zero then.
#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "checks.h"
#include "codec_reference.h"
#include "compress/codec.h"
#include "kernels/quantize.h"

using namespace quoit;

namespace {

const std::array<std::string, 9> kNames{"bf16",
                                        "bf16(stochastic)",
                                        "fp8",
                                        "int8",
                                        "int4",
                                        "int4(hadamard)",
                                        "topk(ratio=0.01, bits=8)",
                                        "topk(ratio=0.1, bits=4)",
                                        "topk(ratio=0.25, bits=2)"};
// Defined bit by bit.
bool is_exact(const std::string& name) {
  return name != "bf16(stochastic)" && name != "int4(hadamard)";
}
constexpr std::array<std::size_t, 14> kCounts{1,   2,   3,   63,   64,   65,   127,
                                              128, 129, 512, 1000, 3333, 4095, 4096};

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::Baseline, Isa::X86V3, Isa::X86V4}) {
    if (isa_available(isa)) isas.push_back(isa);
  }
  return isas;
}

bool same_bits(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) ||
         reinterpreted<std::uint32_t>(a) == reinterpreted<std::uint32_t>(b);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](float x, float y) { return same_bits(x, y); });
}

std::size_t block_of(const std::string& name) {
  return name.starts_with("topk") ? kTile : name == "int4" ? 64 : 128;
}

// ---- Running a codec, with guards around all that it writes and at addresses that are no more
// than aligned to 4.

constexpr std::size_t kGuard = 64;

template <class T>
class Guarded {
 public:
  explicit Guarded(const std::vector<T>& from)
      : storage_(from.size() + 2 * kGuard + 1, guard()), size_(from.size()) {
    std::copy(from.begin(), from.end(), data());
  }
  T* data() { return storage_.data() + kGuard + (sizeof(T) < 4 ? 4 : 1); }
  std::vector<T> values() { return {data(), data() + size_}; }
  bool intact() {
    for (std::size_t i = 0; i < storage_.size(); ++i) {
      const bool inside = &storage_[i] >= data() && &storage_[i] < data() + size_;
      if (!inside && std::memcmp(&storage_[i], &kPattern, sizeof(T)) != 0) return false;
    }
    return true;
  }

 private:
  static constexpr std::uint32_t kPattern = 0xa5a5a5a5;
  static T guard() {
    T value;
    std::memcpy(&value, &kPattern, sizeof value);
    return value;
  }
  std::vector<T> storage_;
  std::size_t size_;
};

struct Input {
  std::vector<float> in;
  std::vector<float> carried;  // empty: none
  float scale = 1;
  float unit = 1;
  std::uint64_t key = 7;
  bool keep = true;    // what is lost
  bool apart = false;  // in other memory than `carried`
};

struct Output {
  std::vector<std::byte> bytes;
  std::vector<float> p, decoded, residual, sum;
};

constexpr float kUntouched = 12345;

Output run(const std::string& name, Isa isa, const Input& input) {
  const CodecPtr codec = codec_named(name, isa);
  const std::size_t n = input.in.size();
  EXPECT(codec->name() == name, name, " calls itself ", codec->name());
  EXPECT(codec->bytes(n) == reference_bytes(name, n), name, " of ", n, " takes ", codec->bytes(n));

  Guarded<float> in(input.in), carried(input.carried);
  Guarded<float> residual(std::vector<float>(n, kUntouched));
  Guarded<float> decoded(std::vector<float>(n, 0)), sum(std::vector<float>(n, 0.1F));
  Guarded<std::byte> bytes(std::vector<std::byte>(codec->bytes(n), std::byte{0x5a}));
  Source from{.in = in.data(), .count = n, .scale = input.scale};
  from.unit = input.unit;
  from.per_unit = 1 / input.unit;
  from.key = input.key;
  const bool has_carried = !input.carried.empty();
  if (has_carried) from.carried = carried.data();
  const bool in_place = has_carried && !input.apart;
  if (input.keep) from.residual = in_place ? carried.data() : residual.data();
  codec->encode(from, bytes.data());
  codec->decode(bytes.data(), decoded.data(), n);
  codec->add(bytes.data(), sum.data(), n);

  Output out{bytes.values(), {}, decoded.values(), {}, sum.values()};
  out.residual = in_place ? carried.values() : residual.values();
  for (std::size_t i = 0; i < n; ++i) {
    const float scaled = input.in[i] * input.scale;
    out.p.push_back(has_carried ? scaled + input.carried[i] * input.unit : scaled);
    EXPECT(same_bits(out.sum[i], 0.1F + out.decoded[i]), name, " adds something else");
    if (!input.keep) continue;
    const float before = in_place ? input.carried[i] : kUntouched;
    const float lost = (out.p[i] - out.decoded[i]) * from.per_unit;
    EXPECT(same_bits(out.residual[i], std::isfinite(out.decoded[i]) ? lost : before), name_of(isa),
           " ", name, " of ", n, ": element ", i, " was ", out.p[i], ", is ", out.decoded[i],
           ", and leaves ", out.residual[i]);
  }
  EXPECT(same_bits(in.values(), input.in), name, " changed its input");
  EXPECT(in.intact() && carried.intact() && residual.intact() && decoded.intact() && sum.intact() &&
             bytes.intact(),
         name_of(isa), " ", name, " of ", n, " wrote outside");
  return out;
}

// ---- Bounds.

// What an element of a block may differ by: half a step, and for the largest of floats one.
double bound(const std::string& name, const std::vector<float>& p, std::size_t i) {
  // What is left out is lost; what is kept never loses more than that.
  if (name.starts_with("topk")) return std::fabs(p[i]) * (1 + 0x1p-22);
  const std::size_t block = block_of(name), begin = i / block * block;
  double least = 0, most = 0;
  for (std::size_t j = begin; j < std::min(p.size(), begin + block); ++j) {
    least = std::min(least, double{p[j]});
    most = std::max(most, double{p[j]});
  }
  const double absmax = std::max(-least, most), size = std::fabs(p[i]);
  const double up = 1 + 0x1p-7;  // what rounding a scale up adds at most
  if (name == "bf16") return size * 0x1p-8 + 0x1p-134;
  if (name == "bf16(stochastic)") return size * 0x1p-7 + 0x1p-133;
  if (name == "fp8")
    return std::max({size * 0x1p-4, absmax / 448 * up * 0x1p-10, 448 * 0x1p-126}) * 1.0001;
  if (name == "int8") return std::max(absmax / 127 * up / 2 * 1.0001, 127 * 0x1p-126);
  const double step = (most - least) / 15 * up;
  const double half = absmax > 0x1p126 ? 1 : 0.5;
  if (name == "int4") return std::max(step * half * 1.0001, 15 * 0x1p-126);
  // Rotated: 128 errors of half a step each, at worst all of one sign.
  return std::max(128 * absmax / 7 * up / 2, 128 * 7 * 0x1p-126);
}

void check_bounds(const std::string& name, const Output& got, const std::string& what) {
  for (std::size_t i = 0; i < got.p.size(); ++i) {
    if (!std::isfinite(got.p[i]) || !std::isfinite(got.decoded[i])) continue;
    const double error = std::fabs(double{got.p[i]} - double{got.decoded[i]});
    EXPECT(error <= bound(name, got.p, i), name, " of ", what, ": element ", i, ", ", got.p[i],
           ", became ", got.decoded[i]);
  }
}

// ---- Inputs.

std::mt19937_64 random_bits(2026);

std::vector<float> normal(std::size_t n, float sigma = 1) {
  std::normal_distribution<float> numbers(0, sigma);
  std::vector<float> out(n);
  for (float& x : out) x = numbers(random_bits);
  return out;
}

constexpr std::array<float, 16> kSpecial{
    0.0F,      -0.0F,  1.0F,    -1.0F,    FLT_MIN, -FLT_MIN, FLT_TRUE_MIN, -3 * FLT_TRUE_MIN,
    0x1p-120F, 127.0F, -448.0F, 0x1p100F, FLT_MAX, -FLT_MAX, -0x1p127F,    1e-3F};

struct Case {
  std::string what;
  Input input;
};

std::vector<Case> cases(std::size_t n) {
  std::vector<Case> all;
  all.push_back({"normal", {normal(n), {}}});
  all.push_back({"normal, nothing kept", {normal(n), {}, 1, 1, 9, false}});
  all.push_back({"with feedback", {normal(n), normal(n, 0.1F), 0.3F}});
  all.push_back({"with feedback apart", {normal(n), normal(n, 0.1F), 0.3F, 1, 9, true, true}});
  all.push_back({"with a scaled loss", {normal(n, 1024), normal(n, 0.1F), 0.25F, 1000}});
  all.push_back({"zeros", {std::vector<float>(n), {}}});
  all.push_back({"equal numbers", {std::vector<float>(n, -3.7F), {}}});
  all.push_back({"denormals", {normal(n, 0x1p-130F), {}}});
  all.push_back({"hardly normal", {normal(n, 0x1p-120F), {}}});
  all.push_back({"large", {normal(n, 0x1p125F), {}}});
  Input one_sided{normal(n), {}};
  for (float& x : one_sided.in) x = std::fabs(x);
  all.push_back({"positive", one_sided});
  for (float& x : one_sided.in) x = -x;
  all.push_back({"negative", one_sided});
  Input halves{normal(n, 30), {}};  // many ties
  for (float& x : halves.in) x = std::nearbyint(x * 2) / 2;
  if (n > 1) halves.in[0] = 127;
  all.push_back({"ties", halves});
  Input special{normal(n), {}};
  for (float& x : special.in)
    if (random_bits() % 16 == 0) x = kSpecial[random_bits() % kSpecial.size()];
  all.push_back({"special", special});
  for (const float alone : {INFINITY, -INFINITY, NAN, -NAN, FLT_MAX, -FLT_MAX}) {
    Input mixed{normal(n), normal(n, 0.1F)};
    mixed.in[random_bits() % n] = alone;
    all.push_back({text(alone, " among others"), mixed});
    Input most{std::vector<float>(n, alone), {}};
    all.push_back({text("only ", alone), most});
  }
  Input everything{std::vector<float>(n), {}};
  for (float& x : everything.in)
    x = reinterpreted<float>(static_cast<std::uint32_t>(random_bits()));
  all.push_back({"any bits", everything});
  return all;
}

// A block that holds anything not finite is NaN throughout, every other is finite; of bf16, each
// element for itself.
void check_finiteness(const std::string& name, const Output& got, const std::string& what) {
  const std::size_t block = name.starts_with("bf16") ? 1 : block_of(name);
  const float limit = name == "int4(hadamard)" ? 0x1p124F : INFINITY;
  for (std::size_t b = 0; b < got.p.size(); b += block) {
    const std::size_t end = std::min(got.p.size(), b + block);
    const auto reaches = [&](float x) { return !(std::fabs(x) < limit); };
    const bool marked = std::any_of(got.p.begin() + static_cast<std::ptrdiff_t>(b),
                                    got.p.begin() + static_cast<std::ptrdiff_t>(end), reaches);
    for (std::size_t i = b; i < end; ++i) {
      if (block > 1)
        EXPECT(marked ? std::isnan(got.decoded[i]) : std::isfinite(got.decoded[i]), name, " of ",
               what, ": element ", i, ", ", got.p[i], ", became ", got.decoded[i]);
      else if (marked)
        EXPECT(std::isnan(got.p[i]) ? std::isnan(got.decoded[i]) : got.p[i] == got.decoded[i], name,
               " of ", got.p[i], " became ", got.decoded[i]);
    }
  }
}

void test_all_cases() {
  for (const std::string& name : kNames) {
    for (const std::size_t count : kCounts) {
      for (const Case& one : cases(count)) {
        const std::string what = text(count, " x ", one.what);
        const Output first = run(name, Isa::Baseline, one.input);
        check_bounds(name, first, what);
        check_finiteness(name, first, what);
        for (const Isa isa : available_isas()) {
          if (isa == Isa::Baseline) continue;
          const Output other = run(name, isa, one.input);
          EXPECT(other.bytes == first.bytes && same_bits(other.decoded, first.decoded) &&
                     same_bits(other.residual, first.residual) && same_bits(other.sum, first.sum),
                 name_of(isa), " ", name, " of ", what, " has other bits than the baseline");
        }
        if (!is_exact(name)) continue;
        const Reference wanted = reference(name, first.p);
        EXPECT(std::memcmp(first.bytes.data(), wanted.bytes.data(), wanted.bytes.size()) == 0, name,
               " of ", what, " wrote other bytes than the reference");
        EXPECT(same_bits(first.decoded, wanted.decoded), name, " of ", what,
               " decodes to other numbers than the reference");
      }
    }
  }
}

// Zeros, and what is too small for a scale, come out as zeros and are kept in the residual.
void test_zeros() {
  for (const std::string& name : kNames) {
    if (name.starts_with("bf16")) continue;
    for (const float size : {0.0F, -0.0F, FLT_TRUE_MIN, 0x1p-127F}) {
      const Output got = run(name, isa_in_use(), {std::vector<float>(300, size), {}});
      for (std::size_t i = 0; i < 300; ++i)
        EXPECT(got.decoded[i] == 0 && got.residual[i] == size, name, " of ", size, " became ",
               got.decoded[i], " and left ", got.residual[i]);
    }
  }
}

// An exact zero stays one, whatever is beside it.
void test_zero_among_others() {
  std::vector<float> in = normal(4096, 3);
  for (std::size_t i = 0; i < in.size(); i += 7) in[i] = 0;
  for (const std::string& name : kNames) {
    if (name == "int4(hadamard)") continue;
    const Output got = run(name, isa_in_use(), {in, {}});
    for (std::size_t i = 0; i < in.size(); i += 7)
      EXPECT(got.decoded[i] == 0, name, " of 0 became ", got.decoded[i]);
  }
}

// ---- What is not compared bit by bit.

// Each result is one of the two neighbours, the mean is the number itself, and equal keys give
// equal bits, other keys and elements other ones.
void test_stochastic() {
  constexpr int kKeys = 400;
  for (const float part : {0.0F, 1.0F / 65536, 0.25F, 0.5F, 0.9F}) {
    const float step = 0x1p-7F;
    for (const float sign : {1.0F, -1.0F}) {
      Input input{std::vector<float>(4096, sign * (1 + part * step)), {}};
      input.keep = false;
      double total = 0;
      for (int key = 0; key < kKeys; ++key) {
        input.key = static_cast<std::uint64_t>(key);
        const Output got = run("bf16(stochastic)", isa_in_use(), input);
        for (const float x : got.decoded) {
          EXPECT(x == sign || x == sign * (1 + step), "between ", sign, " and one more: ", x);
          total += (x * sign - 1) / step;
        }
      }
      const double n = 4096.0 * kKeys, mean = total / n, sigma = std::sqrt(part * (1 - part) / n);
      EXPECT(std::fabs(mean - part) <= 5 * sigma, "rounded up ", mean, " instead of ", part);
    }
  }
  const Input input{normal(4096), {}};
  Input other = input;
  other.key = input.key + 1;
  const Output a = run("bf16(stochastic)", isa_in_use(), input);
  EXPECT(a.bytes == run("bf16(stochastic)", isa_in_use(), input).bytes, "equal keys differ");
  EXPECT(a.bytes != run("bf16(stochastic)", isa_in_use(), other).bytes, "keys make no difference");
}

// The bytes that it writes, decoded by the definition: signs, H, scale, in double precision.
void test_hadamard() {
  const std::size_t n = 4096;
  for (const Input& input : {Input{normal(n), {}}, Input{normal(1000), normal(1000)}}) {
    const Output got = run("int4(hadamard)", isa_in_use(), input);
    const std::size_t blocks = (got.p.size() + 127) / 128;
    const auto byte = [&](std::size_t i) { return static_cast<unsigned>(got.bytes[i]); };
    for (std::size_t b = 0; b < blocks; ++b) {
      const double scale = reinterpreted<float>((byte(2 * b) | byte(2 * b + 1) << 8) << 16);
      std::array<double, 128> signs{}, rotated{};
      for (std::size_t i = 0; i < 128; ++i) {
        const auto index = static_cast<std::uint32_t>(128 * b + i);
        signs[i] = with_random_sign(1, index);
        const double p = 128 * b + i < got.p.size() ? got.p[128 * b + i] : 0;
        for (std::size_t k = 0; k < 128; ++k)
          rotated[k] += signs[i] * p * (__builtin_popcountll(i & k) % 2 == 0 ? 1 : -1) / 128;
      }
      double absmax = 0;
      std::array<double, 128> codes{};
      for (std::size_t k = 0; k < 128; ++k) {
        const unsigned pair = byte(2 * blocks + 64 * b + k / 2);
        codes[k] = static_cast<double>(k % 2 == 0 ? pair & 15 : pair >> 4) - 8;
        absmax = std::max(absmax, std::fabs(rotated[k]));
        EXPECT(std::fabs(rotated[k] / scale - codes[k]) <= 0.5001, "the code of ", rotated[k],
               " is ", codes[k], ", with a scale of ", scale);
      }
      EXPECT(scale >= absmax / 7 * 0.9999 && scale <= absmax / 7 * (1 + 0x1p-7) * 1.0001,
             "the scale of ", absmax, " is ", scale);
      for (std::size_t i = 0; 128 * b + i < got.p.size() && i < 128; ++i) {
        double x = 0;
        for (std::size_t k = 0; k < 128; ++k)
          x += codes[k] * (__builtin_popcountll(i & k) % 2 == 0 ? scale : -scale);
        EXPECT(std::fabs(x * signs[i] - got.decoded[128 * b + i]) <= 1e-4 * absmax, "decoded ",
               got.decoded[128 * b + i], " instead of ", x * signs[i]);
      }
    }
  }
  int negative = 0;
  for (std::uint32_t i = 0; i < kTile; ++i) negative += with_random_sign(1, i) < 0 ? 1 : 0;
  EXPECT(std::abs(negative - 2048) < 5 * 32, negative, " of 4096 signs are negative");
}

void test_e4m3() {
  for (unsigned code = 0; code < 256; ++code) {
    if ((code & 0x7f) == 0x7f) continue;
    const float x = float_from_e4m3(static_cast<std::uint8_t>(code));
    EXPECT(x == e4m3(code) && std::signbit(x) == (code >= 128), "e4m3 ", code, " is ", x);
    EXPECT(e4m3_from_float(x) == code, "e4m3 ", code, " there and back");
    if ((code & 0x7f) == 0x7e) continue;
    const auto tie = static_cast<float>((e4m3(code) + e4m3(code + 1)) / 2);
    for (const float near : {tie, std::nextafter(tie, 1e9F), std::nextafter(tie, -1e9F)})
      EXPECT(e4m3_from_float(near) == nearest_e4m3(near), "e4m3 of ", near);
  }
}

// Of equal magnitudes the first are kept, whatever their sign, and no more than asked for.
void test_ties() {
  const std::string name = "topk(ratio=0.01, bits=8)";
  std::vector<float> in(4096, 0.5F);
  for (std::size_t i = 1; i < in.size(); i += 2) in[i] = -0.5F;
  in[4095] = 2;
  in[4000] = -1;
  for (const Isa isa : available_isas()) {
    const Output got = run(name, isa, {in, {}});
    for (std::size_t i = 0; i < in.size(); ++i) {
      const bool kept = i < 39 || i == 4000 || i == 4095;
      EXPECT(kept == (got.decoded[i] != 0), name_of(isa), " of ties: element ", i, " became ",
             got.decoded[i]);
    }
  }
}

// Never less of the length is kept than a share that follows from the ratio, which is what error
// feedback needs to converge; and where few numbers are not zero, all are kept.
void test_topk_contracts() {
  std::student_t_distribution<float> heavy(2);
  for (const double ratio : {0.001, 0.01, 0.1, 0.25}) {
    for (const int bits : {2, 4, 8}) {
      const std::string name = text("topk(ratio=", ratio, ", bits=", bits, ")");
      for (const std::size_t n : {std::size_t{1}, std::size_t{77}, kTile}) {
        Input input{normal(n), {}};
        if (n > 77)
          for (float& x : input.in) x = heavy(random_bits);
        const Output got = run(name, isa_in_use(), input);
        double lost = 0, all = 0, largest = 0;
        for (std::size_t i = 0; i < n; ++i) {
          lost += std::pow(double{got.p[i]} - got.decoded[i], 2);
          all += std::pow(double{got.p[i]}, 2);
          largest = std::max(largest, std::pow(double{got.p[i]}, 2));
        }
        // Few bits are sure of the largest only.
        const double kept = std::max(1.0, std::floor(ratio * static_cast<double>(n) + 0.5));
        const double sure = bits == 8 ? kept / static_cast<double>(n) * all : largest;
        EXPECT(lost <= all - 0.98 * sure, name, " of ", n, " loses ", lost, " of ", all);
      }
      Input few{std::vector<float>(kTile), {}};
      few.in[5] = 3;
      few.in[4095] = -2;
      const Output got = run(name, isa_in_use(), few);
      const bool both = ratio > 0.001 && bits > 2;
      EXPECT(
          std::fabs(got.decoded[5] - 3) < 0.02 && (!both || std::fabs(got.decoded[4095] + 2) < 0.1),
          name, " of few became ", got.decoded[5], " and ", got.decoded[4095]);
      for (std::size_t i = 0; i < kTile; ++i)
        EXPECT(i == 5 || i == 4095 || got.decoded[i] == 0, name, " of 0 became ", got.decoded[i]);
    }
  }
}

void test_names() {
  for (const std::string name :
       {"topk(ratio=0.26, bits=8)", "topk(ratio=0, bits=8)", "topk(ratio=nan, bits=8)",
        "topk(ratio=0.01, bits=3)", "topk(ratio=0.01, bits=-2)"}) {
    try {
      codec_named(name);
      EXPECT(false, "there is a codec '", name, "'");
    } catch (const UsageError& error) {
      const bool ratio = name.ends_with("=8)");
      EXPECT(text(error.what()).find(ratio ? "at most 0.25" : "2, 4 or 8") != std::string::npos,
             "'", name, "': ", error.what());
    }
  }
  EXPECT(codec_named("topk(ratio=0.010, bits=8)")->name() == "topk(ratio=0.01, bits=8)", "name");
  for (const std::string name :
       {"int9", "bf16(random)", "int4(hadamard", "", "topk(0.01)", "topk(ratio=0.01, bits=8"}) {
    try {
      codec_named(name);
      EXPECT(false, "there is a codec '", name, "'");
    } catch (const UsageError& error) {
      const std::string said = error.what();
      EXPECT(
          said.find(name) != std::string::npos && said.find("int4(hadamard)") != std::string::npos,
          "'", name, "': ", said);
    }
  }
}

}  // namespace

int main() {
  test_e4m3();
  test_all_cases();
  test_zeros();
  test_zero_among_others();
  test_stochastic();
  test_hadamard();
  test_ties();
  test_topk_contracts();
  test_names();
  return quoit::test::verdict();
}
