#pragma once
// What the codecs of blocks must write, one element after the other and in double precision
// wherever a float is not part of the definition; shares no code with the kernels.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

struct Reference {
  std::vector<std::uint8_t> bytes;
  std::vector<float> decoded;
};

// What a name such as "topk(ratio=0.01, bits=8)" says; no bits: it is none of these.
struct TopK {
  double ratio = 0;
  unsigned bits = 0;

  explicit TopK(const std::string& name) {
    if (std::sscanf(name.c_str(), "topk(ratio=%lf, bits=%u)", &ratio, &bits) != 2) bits = 0;
  }
  [[nodiscard]] std::size_t kept(std::size_t count) const {
    return std::max(1L, std::lround(ratio * static_cast<double>(count)));
  }
};

// What a tile of `count` takes: a header for each block, the codes, rounded up to a multiple of 4.
inline std::size_t reference_bytes(const std::string& name, std::size_t count) {
  const auto blocks = [&](std::size_t of) { return (count + of - 1) / of; };
  std::size_t bytes = 0;
  if (name.starts_with("bf16")) bytes = 2 * count;
  if (name == "fp8" || name == "int8") bytes = 2 * blocks(128) + count;
  if (name == "int4") bytes = 3 * blocks(64) + (count + 1) / 2;
  if (name == "int4(hadamard)") bytes = (2 + 64) * blocks(128);
  if (const TopK topk(name); topk.bits > 0) {
    const std::size_t kept = topk.kept(count);
    bytes = 6 + (12 * kept + 7) / 8 + (topk.bits * kept + 7) / 8;
  }
  return bytes + (4 - bytes % 4) % 4;
}

template <class To, class From>
To reinterpreted(From from) {
  To to;
  static_assert(sizeof to == sizeof from);
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// The bfloat16 next to x: below (-1), nearest with ties to even (0), above (1). Normal numbers
// only.
inline float brain(double x, int direction) {
  if (x == 0) return 0;
  int exponent = 0;
  const double scaled = std::ldexp(std::frexp(x, &exponent), 8);  // 128 to 256
  const double whole = direction < 0   ? std::floor(scaled)
                       : direction > 0 ? std::ceil(scaled)
                                       : std::nearbyint(scaled);
  return static_cast<float>(std::ldexp(whole, exponent - 8));
}

inline std::uint16_t brain_bits(float x) {
  return static_cast<std::uint16_t>(reinterpreted<std::uint32_t>(x) >> 16);
}

// The value of a float8 e4m3 that is no NaN.
inline double e4m3(unsigned code) {
  const double sign = code & 0x80 ? -1 : 1;
  const int exponent = static_cast<int>(code >> 3 & 15);
  const double mantissa = code & 7;
  return exponent == 0 ? sign * std::ldexp(mantissa, -9)
                       : sign * std::ldexp(8 + mantissa, exponent - 10);
}

// By looking at all of them; of two that are as near, the even one.
inline unsigned nearest_e4m3(double x) {
  unsigned best = 0;
  for (unsigned code = 1; code < 0x7f; ++code) {
    const double mine = std::fabs(e4m3(code) - std::fabs(x));
    const double other = std::fabs(e4m3(best) - std::fabs(x));
    if (mine < other || (mine == other && code % 2 == 0)) best = code;
  }
  return best | (std::signbit(x) ? 0x80U : 0U);
}

// The scale of numbers up to `absmax`, of codes up to `largest`.
inline float reference_scale(float absmax, float largest) {
  if (absmax < largest * 0x1p-126F) return 0;
  const float most = brain(HUGE_VALF > absmax ? 0x1.fffffep127 / largest : 0, -1);
  return std::min(brain(absmax / largest, 1), most);
}

inline void put(std::vector<std::uint8_t>& bytes, std::size_t at, std::uint16_t value) {
  bytes[at] = static_cast<std::uint8_t>(value);
  bytes[at + 1] = static_cast<std::uint8_t>(value >> 8);
}

inline void reference_symmetric(bool fp8, const std::vector<float>& p, Reference& out) {
  const float largest = fp8 ? 448 : 127;
  const std::size_t blocks = (p.size() + 127) / 128;
  for (std::size_t b = 0; b < blocks; ++b) {
    float absmax = 0;
    bool finite = true;
    const std::size_t end = std::min(p.size(), 128 * b + 128);
    for (std::size_t i = 128 * b; i < end; ++i) {
      absmax = std::max(absmax, std::fabs(p[i]));
      finite = finite && std::isfinite(p[i]);
    }
    const float scale = reference_scale(absmax, largest);
    put(out.bytes, 2 * b, finite ? brain_bits(scale) : std::uint16_t{0x7fc0});
    const float inverse = scale > 0 ? 1.0F / scale : 0;
    for (std::size_t i = 128 * b; i < end; ++i) {
      if (!finite) {
        out.decoded[i] = NAN;
        continue;
      }
      const float quotient = p[i] * inverse;
      const double code = std::nearbyint(double{quotient}) + 0.0;  // an integer has one zero
      const unsigned small = nearest_e4m3(quotient);
      out.bytes[2 * blocks + i] =
          static_cast<std::uint8_t>(fp8 ? small : static_cast<unsigned>(static_cast<int>(code)));
      out.decoded[i] = static_cast<float>(fp8 ? e4m3(small) : code) * scale;
    }
  }
}

inline void reference_int4(const std::vector<float>& p, Reference& out) {
  const std::size_t blocks = (p.size() + 63) / 64;
  for (std::size_t b = 0; b < blocks; ++b) {
    float least = 0, most = 0;
    bool finite = true;
    const std::size_t end = std::min(p.size(), 64 * b + 64);
    for (std::size_t i = 64 * b; i < end; ++i) {
      least = std::min(least, p[i]);
      most = std::max(most, p[i]);
      finite = finite && std::isfinite(p[i]);
    }
    const bool tiny = std::max(most, -least) < 15 * 0x1p-126F;
    const float scale = tiny || !finite ? 0 : brain(most / 15 + -least / 15, 1);
    const float inverse = scale > 0 ? 1.0F / scale : 0;
    const double zero = std::nearbyint(double{-least * inverse});
    const double room = scale > 0 ? std::floor(0x1.fffffep127 / scale) : 15;
    put(out.bytes, 2 * b, finite ? brain_bits(scale) : std::uint16_t{0x7fc0});
    out.bytes[2 * blocks + b] = static_cast<std::uint8_t>(finite ? zero : 0);
    for (std::size_t i = 64 * b; i < end; ++i) {
      const double code = std::nearbyint(double{p[i] * inverse});
      const double kept =
          std::min(std::min(15 - zero, room), std::max(std::max(-zero, -room), code));
      out.decoded[i] = finite ? static_cast<float>(kept + 0.0) * scale : NAN;
      const auto bits = static_cast<unsigned>(finite ? kept + zero : 0);
      out.bytes[3 * blocks + i / 2] |= static_cast<std::uint8_t>(i % 2 == 0 ? bits : bits << 4);
    }
    // The code that fills up the last byte is that of 0.
    if (end == p.size() && p.size() % 2 == 1 && finite)
      out.bytes[3 * blocks + end / 2] |=
          static_cast<std::uint8_t>(static_cast<unsigned>(zero) << 4);
  }
}

inline void reference_topk(const TopK& topk, const std::vector<float>& p, Reference& out) {
  if (!std::all_of(p.begin(), p.end(), [](float x) { return std::isfinite(x); })) {
    put(out.bytes, 0, 0x7fc0);
    std::fill(out.decoded.begin(), out.decoded.end(), NAN);
    return;
  }
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  order.erase(std::remove_if(order.begin(), order.end(), [&](std::size_t i) { return p[i] == 0; }),
              order.end());
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return std::fabs(p[a]) > std::fabs(p[b]); });
  const std::size_t most = topk.kept(p.size()), codes_at = 6 + (12 * most + 7) / 8;
  order.resize(std::min(order.size(), most));
  if (order.empty()) return;
  const float largest = std::fabs(p[order.front()]), least = std::fabs(p[order.back()]);
  std::sort(order.begin(), order.end());
  const unsigned last = (1U << (topk.bits - 1)) - 1;
  const auto steps = static_cast<float>(last);
  const float low = least < 0x1p-126F ? 0 : brain(least, -1), range = largest - low;
  float step = range < steps * 0x1p-126F ? 0 : brain(range / steps, 1);
  const auto point = [&](unsigned code) {
    const float above = static_cast<float>(code) * step;
    return low + above;
  };
  while (!std::isfinite(point(last)))
    step = reinterpreted<float>(reinterpreted<std::uint32_t>(step) - 0x10000);
  put(out.bytes, 0, brain_bits(low));
  put(out.bytes, 2, brain_bits(step));
  put(out.bytes, 4, static_cast<std::uint16_t>(order.size()));
  const auto put_bits = [&](std::size_t at, std::size_t bit, unsigned value) {
    for (; value != 0; value >>= 1, ++bit)
      out.bytes[at + bit / 8] |= static_cast<std::uint8_t>((value & 1) << bit % 8);
  };
  for (std::size_t i = 0; i < order.size(); ++i) {
    const float x = p[order[i]], above = std::fabs(x) - low;
    const float quotient = step == 0 ? 0 : above / step;
    const auto code = static_cast<unsigned>(std::nearbyint(std::min(quotient, steps)));
    put_bits(6, 12 * i, static_cast<unsigned>(order[i]));
    put_bits(codes_at, topk.bits * i, code + (std::signbit(x) ? last + 1 : 0));
    out.decoded[order[i]] = std::copysign(point(code), x);
  }
}

// Of bf16, fp8, int8, int4 and topk; the others are random or not defined bit by bit.
inline Reference reference(const std::string& name, const std::vector<float>& p) {
  Reference out{std::vector<std::uint8_t>(reference_bytes(name, p.size())),
                std::vector<float>(p.size())};
  if (name == "fp8" || name == "int8") reference_symmetric(name == "fp8", p, out);
  if (name == "int4") reference_int4(p, out);
  if (const TopK topk(name); topk.bits > 0) reference_topk(topk, p, out);
  if (name == "bf16") {
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double steps = std::nearbyint(std::ldexp(double{p[i]}, 133));  // of a denormal bfloat16
      const float near = std::fabs(p[i]) < 0x1p-126F ? static_cast<float>(std::ldexp(steps, -133))
                         : std::isfinite(p[i])       ? brain(p[i], 0)
                                                     : p[i];
      const bool nan = std::isnan(p[i]);
      put(out.bytes, 2 * i, nan ? std::uint16_t{0x7fc0} : brain_bits(std::copysign(near, p[i])));
      out.decoded[i] = std::copysign(near, p[i]);
    }
  }
  return out;
}
