#pragma once
// The kernels of kernels/cuda.h beside the CPU's, bit for bit: on a Machine, which is a CUDA device
// in tests/cuda and stands for one in tests/cpp. Prints what failed.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "compress/tiles.h"
#include "kernels/cast.h"
#include "kernels/cuda.h"

namespace quoit::test {

inline int failures = 0;

template <class... Parts>
void expect(bool condition, const Parts&... parts) {
  if (!condition && ++failures <= 20) std::printf("FAILED: %s\n", text(parts...).c_str());
}

// Memory of a device, and the kernels that work on it. Copies wait for what was launched.
struct Machine {
  const cuda::KernelSet& kernels;
  void* (*allocate)(std::size_t bytes);
  void (*free)(void* memory);
  void (*copy)(const void* from, void* to, std::size_t bytes);  // either may be the host's
};

// Bytes of a device, `past` behind an address that is a multiple of 256, between guards.
class Memory {
 public:
  Memory(const Machine& machine, const std::vector<std::byte>& bytes, std::size_t past)
      : machine_(machine), size_(bytes.size()), begin_(kGuard + past) {
    std::vector<std::byte> whole(begin_ + size_ + kGuard, kPattern);
    std::copy(bytes.begin(), bytes.end(), whole.begin() + static_cast<std::ptrdiff_t>(begin_));
    memory_ = static_cast<std::byte*>(machine.allocate(whole.size()));
    machine.copy(whole.data(), memory_, whole.size());
  }
  ~Memory() { machine_.free(memory_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  [[nodiscard]] std::byte* data() const { return memory_ + begin_; }
  [[nodiscard]] float* floats() const { return reinterpret_cast<float*>(data()); }

  // Complains if anything was written beside them.
  [[nodiscard]] std::vector<std::byte> bytes(const std::string& what) const {
    std::vector<std::byte> whole(begin_ + size_ + kGuard);
    machine_.copy(memory_, whole.data(), whole.size());
    const auto first = whole.begin() + static_cast<std::ptrdiff_t>(begin_);
    const auto last = first + static_cast<std::ptrdiff_t>(size_);
    const auto guards = [](auto from, auto to) {
      return std::all_of(from, to, [](std::byte b) { return b == kPattern; });
    };
    expect(guards(whole.begin(), first) && guards(last, whole.end()), what, ": wrote outside");
    return {first, last};
  }

 private:
  static constexpr std::size_t kGuard = 256;
  static constexpr std::byte kPattern{0xa5};
  const Machine& machine_;
  std::byte* memory_;
  std::size_t size_;
  std::size_t begin_;
};

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// Equal bits; two float32 may be different NaNs.
inline bool same(const std::vector<std::byte>& a, const std::vector<std::byte>& b, bool floats) {
  if (a.size() != b.size()) return false;
  if (!floats) return a == b;
  for (std::size_t i = 0; i + 4 <= a.size(); i += 4) {
    float x, y;
    std::memcpy(&x, &a[i], 4);
    std::memcpy(&y, &b[i], 4);
    if (std::memcmp(&x, &y, 4) != 0 && !(std::isnan(x) && std::isnan(y))) return false;
  }
  return true;
}

// ---- Numbers.

inline std::mt19937_64 random_bits(2026);

enum class Numbers { Plain, Mixed, AnyBits, Huge, Tiny };
constexpr std::array kNumbers{Numbers::Plain, Numbers::Mixed, Numbers::AnyBits, Numbers::Huge,
                              Numbers::Tiny};

inline float random_number(Numbers kind) {
  const std::uint64_t any = random_bits();
  const float plain = static_cast<float>(static_cast<std::int32_t>(any)) * 0x1p-30F;
  const auto bits = static_cast<std::uint32_t>(any >> 32);
  switch (kind) {
    case Numbers::AnyBits:
      return __builtin_bit_cast(float, bits);
    case Numbers::Huge:
      return plain * 0x1p127F;
    case Numbers::Tiny:
      return plain * 0x1p-120F * (bits % 2 == 0 ? 1 : 0x1p-24F);
    default:
      return bits % 128 == 0 ? plain * 50 : plain;
  }
}

// Mixed: runs of zeros, of either sign, and now and then a number that is none.
inline std::vector<float> random_numbers(std::size_t count, Numbers kind) {
  std::vector<float> numbers(count);
  for (float& x : numbers) x = random_number(kind);
  if (kind != Numbers::Mixed) return numbers;
  constexpr std::array<float, 4> kOdd{HUGE_VALF, -HUGE_VALF, NAN, -0.0F};
  for (std::size_t done = 0; done < count; done += 700)
    numbers[done + random_bits() % std::min<std::size_t>(700, count - done)] =
        kOdd[random_bits() % 4];
  for (std::size_t begin = 256; begin + 600 < count; begin += 3000)
    std::fill_n(&numbers[begin], 600, begin % 2 == 0 ? 0.0F : -0.0F);
  return numbers;
}

inline std::vector<std::byte> as(DType dtype, const std::vector<float>& numbers) {
  if (dtype == DType::Float32) return bytes_of(numbers);
  std::vector<std::uint16_t> narrow;
  for (const float x : numbers)
    narrow.push_back(dtype == DType::BFloat16 ? bf16_from_float(x) : f16_from_float(x));
  return bytes_of(narrow);
}

// ---- Codecs: the tensors of one buffer, a rank's data and residuals, on host and device.

struct Layout {
  std::string codec;
  DType dtype;
  bool residuals;
  std::vector<std::size_t> sizes;
  std::size_t past;  // where device memory begins

  [[nodiscard]] std::size_t count() const {
    std::size_t count = 0;
    for (const std::size_t size : sizes) count += size;
    return count;
  }
  [[nodiscard]] std::string name() const {
    return text(codec, " of ", name_of(dtype), "[", count(), "]", residuals ? " with residual" : "",
                past > 0 ? text(" at ", past) : "");
  }
};

// Data and residuals of one rank; the CPU's are worked on in place.
class Side {
 public:
  Side(const Layout& layout, const Machine& machine, Numbers kind)
      : layout_(layout),
        data_(as(layout.dtype, random_numbers(layout.count(), kind))),
        residual_(random_numbers(layout.count(), Numbers::Plain)),
        device_data_(machine, data_, layout.past * size_of(layout.dtype)),
        device_residual_(machine, bytes_of(residual_), layout.past * 4) {
    std::size_t begin = 0;
    for (const std::size_t size : layout.sizes) {
      float* const residual = layout.residuals ? residual_.data() + begin : nullptr;
      parts_.push_back({{begin, size}, codec_named(layout.codec, Isa::Baseline), residual});
      begin += size;
    }
    tiles = cut_into_tiles({data_.data(), layout.count(), layout.dtype}, parts_);
    std::size_t offset = 0, tile = 0;
    begin = 0;
    for (const std::size_t size : layout.sizes) {
      runs.push_back({device_data_.data() + begin * size_of(layout.dtype),
                      layout.residuals ? device_residual_.floats() + begin : nullptr, size, offset,
                      tile, layout.dtype});
      for (std::size_t n = ceil_div(size, kTile); n > 0; --n) offset += tiles[tile++].bytes;
      begin += size;
    }
  }

  void compare(const std::string& step) const {
    const std::string what = layout_.name() + ": " + step;
    expect(same(device_data_.bytes(what), data_, layout_.dtype == DType::Float32), what,
           " gives other data");
    expect(same(device_residual_.bytes(what), bytes_of(residual_), true), what,
           " leaves another residual");
  }

  std::vector<Tile> tiles;
  std::vector<cuda::Run> runs;

 private:
  const Layout& layout_;
  std::vector<Part> parts_;  // hold the tiles' codecs
  std::vector<std::byte> data_;
  std::vector<float> residual_;
  Memory device_data_;
  Memory device_residual_;
};

template <class Call>
void for_each_tile(const std::vector<Tile>& tiles, const Call& call) {
  std::size_t offset = 0;
  for (const Tile& tile : tiles) {
    call(tile, offset);
    offset += tile.bytes;
  }
}

// What the owner gets, `owner` among the others.
inline std::vector<const std::byte*> at_offset(std::vector<const std::byte*> theirs,
                                               std::size_t offset) {
  for (const std::byte*& one : theirs)
    if (one) one += offset;
  return theirs;
}

// Every step of a compressed all_reduce among `ranks`, each on the same numbers on both sides.
inline void check_steps(const Layout& layout, const Machine& machine, Numbers kind, int ranks) {
  const cuda::Codec codec = cuda::codec_called(layout.codec);
  const bool floats = layout.codec == "raw";
  const auto after = static_cast<std::uint64_t>(ranks);
  const float before = 1.0F / static_cast<float>(ranks);
  const int owner = ranks / 2;
  const auto terms_of = [&](int rank) { return Terms{before, after, 8, 99, rank}; };
  const auto device_terms = [&](int rank) { return cuda::Terms{before, after, 8, 99, rank}; };

  std::vector<std::vector<std::byte>> encoded;
  std::vector<std::unique_ptr<Memory>> device_encoded;
  std::vector<const std::byte*> theirs, device_theirs;
  const auto add_rank = [&](int rank) {
    Side side(layout, machine, kind);
    const std::size_t bytes = encoded_bytes(side.tiles, {0, side.tiles.size()});
    const std::vector<std::byte> empty(bytes, std::byte{0x5a});
    encoded.push_back(empty);
    device_encoded.push_back(std::make_unique<Memory>(machine, empty, 4 * layout.past));
    for_each_tile(side.tiles, [&](const Tile& tile, std::size_t at) {
      encode_tile(tile, terms_of(rank), encoded.back().data() + at);
    });
    cuda::encode(machine.kernels, codec, side.runs, device_terms(rank),
                 device_encoded.back()->data(), {});
    side.compare("encode");
    expect(same(device_encoded.back()->bytes("encode"), encoded.back(), floats), layout.name(),
           ": encode writes other bytes");
  };
  for (int rank = 0; rank < ranks; ++rank) add_rank(rank);
  for (int rank = 0; rank < ranks; ++rank) {
    const auto i = static_cast<std::size_t>(rank);
    theirs.push_back(rank == owner ? nullptr : encoded[i].data());
    device_theirs.push_back(rank == owner ? nullptr : device_encoded[i]->data());
  }

  Side merged(layout, machine, kind);
  std::vector<std::byte> out(encoded[0].size(), std::byte{0x5a});
  const Memory device_out(machine, out, 4 * layout.past);
  for_each_tile(merged.tiles, [&](const Tile& tile, std::size_t at) {
    merge_tile(tile, at_offset(theirs, at), terms_of(owner), out.data() + at);
  });
  cuda::merge(machine.kernels, codec, merged.runs, device_theirs, device_terms(owner),
              device_out.data(), {});
  merged.compare("merge");
  expect(same(device_out.bytes("merge"), out, floats), layout.name(), ": merge writes other bytes");

  for_each_tile(merged.tiles,
                [&](const Tile& tile, std::size_t at) { decode_tile(tile, out.data() + at); });
  cuda::decode(machine.kernels, codec, merged.runs, device_out.data(), {});
  merged.compare("decode");

  for_each_tile(merged.tiles, [&](const Tile& tile, std::size_t at) {
    encode_value(tile, terms_of(owner), out.data() + at);
  });
  cuda::encode_value(machine.kernels, codec, merged.runs, device_terms(owner), device_out.data(),
                     {});
  merged.compare("encode_value");
  expect(same(device_out.bytes("encode_value"), out, floats), layout.name(),
         ": encode_value writes other bytes");

  Side summed(layout, machine, kind);
  for_each_tile(summed.tiles, [&](const Tile& tile, std::size_t at) {
    sum_tile(tile, at_offset(theirs, at), terms_of(owner));
  });
  cuda::sum(machine.kernels, codec, summed.runs, device_theirs, device_terms(owner), {});
  summed.compare("sum");

  Side settled(layout, machine, kind);
  for (const Tile& tile : settled.tiles) settle_residual(tile, terms_of(owner));
  cuda::settle(machine.kernels, settled.runs, device_terms(owner), {});
  settled.compare("settle");
}

inline void check_codecs(const Machine& machine) {
  // Whole tiles and short ones, blocks of any size, more tensors than a launch takes.
  const std::vector<std::size_t> some{4096, 1, 12288, 5000, 63, 129, 4095, 257, 2048, 640};
  std::vector<std::size_t> many(90, 65);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] += 61 * i % 300;
  for (const std::string codec : {"raw", "bf16", "bf16(stochastic)", "fp8", "int8", "int4",
                                  "int4(hadamard)", "sign", "sign(vote)"}) {
    for (const Numbers kind : kNumbers) {
      for (const bool residuals : {false, true}) {
        check_steps({codec, DType::Float32, residuals, some, 0}, machine, kind, 3);
        check_steps({codec, DType::Float32, residuals, {4096, 700}, 1}, machine, kind, 2);
        check_steps({codec, DType::BFloat16, residuals, {8192, 100}, 0}, machine, kind, 4);
        check_steps({codec, DType::Float16, residuals, {8192, 101}, 0}, machine, kind, 1);
        check_steps({codec, DType::Float16, residuals, {4096}, 3}, machine, kind, 2);
      }
    }
    check_steps({codec, DType::Float32, true, many, 0}, machine, Numbers::Plain, 2);
  }
}

// ---- Reductions, casts, copies.

inline std::vector<std::byte> random_elements(DType dtype, std::size_t count) {
  std::vector<std::byte> bytes(count * size_of(dtype));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_bits());
  if (dtype == DType::Float32 || dtype == DType::Float16 || dtype == DType::BFloat16) {
    const Numbers kind = kNumbers[random_bits() % kNumbers.size()];
    if (kind != Numbers::AnyBits) bytes = as(dtype, random_numbers(count, kind));
  } else if (dtype == DType::Float64 && random_bits() % 2 == 0) {
    std::vector<double> values(count);
    for (double& x : values) x = double{random_number(Numbers::Plain)} * M_PI;
    bytes = bytes_of(values);
  } else if (dtype == DType::Bool) {
    for (std::byte& byte : bytes) byte &= std::byte{2};
  }
  return bytes;
}

// past: where each of the inputs and the output begins, in elements.
inline void check_reduction(const Machine& machine, DType dtype, const ReduceStep& step,
                            std::size_t inputs, std::size_t count, std::size_t past) {
  const std::string what =
      text(name_of(step.op), " of ", inputs, " ", name_of(dtype), "[", count, "] at ", past);
  std::vector<std::vector<std::byte>> in;
  std::vector<std::unique_ptr<Memory>> device_in;
  std::vector<const std::byte*> from, device_from;
  for (std::size_t k = 0; k < inputs; ++k) {
    in.push_back(random_elements(dtype, count));
    // 100: every input elsewhere.
    const std::size_t begin = past == 100 ? k : past;
    device_in.push_back(std::make_unique<Memory>(machine, in.back(), begin * size_of(dtype)));
    device_from.push_back(device_in.back()->data());
  }
  for (const auto& one : in) from.push_back(one.data());
  std::vector<std::byte> out(count * size_of(dtype));
  reduce_on(Isa::Baseline, dtype, step, from, out.data(), nullptr, count);

  const std::size_t begin = (past == 100 ? 1 : past) * size_of(dtype);
  const std::vector<std::byte> empty(out.size());
  const Memory device_out(machine, empty, begin), also(machine, empty, begin);
  cuda::reduce(machine.kernels, dtype, step, device_from, device_out.data(), also.data(), count,
               {});
  expect(same(device_out.bytes(what), out, false), what, " differs");
  expect(same(also.bytes(what), out, false), what, " differs in its second output");
  const Memory& last = *device_in.back();
  cuda::reduce(machine.kernels, dtype, step, device_from, last.data(), nullptr, count, {});
  expect(same(last.bytes(what), out, false), what, " differs in place");
}

inline void check_reductions(const Machine& machine) {
  for (int d = 0; d < kDTypes; ++d) {
    for (int o = 0; o < kReduceOps; ++o) {
      const auto dtype = static_cast<DType>(d);
      const auto op = static_cast<ReduceOp>(o);
      try {
        check_reducible(dtype, op);
      } catch (const UsageError&) {
        expect(machine.kernels.reduce.at[d][o] == nullptr, "a kernel for what has no meaning");
        continue;
      }
      for (const std::size_t inputs : {1, 2, 3, 8}) {
        ReduceStep step{op};
        if (op == ReduceOp::Avg) step.divide_by = inputs;
        if (op == ReduceOp::PremulSum) step.factor = 1.0 / 3;
        for (const std::size_t count : {1, 7, 16, 250, 1029})
          check_reduction(machine, dtype, step, inputs, count, 0);
        check_reduction(machine, dtype, step, inputs, 1029, 3);
        check_reduction(machine, dtype, step, inputs, 5, 1);
        check_reduction(machine, dtype, step, inputs, 1029, 100);
      }
    }
  }
}

inline void check_casts(const Machine& machine) {
  for (const DType narrow : {DType::BFloat16, DType::Float16}) {
    const bool brain = narrow == DType::BFloat16;
    for (const std::size_t count : {1, 4, 1029, 65536}) {
      for (const std::size_t past : {0, 1}) {
        // All bits there are, and numbers.
        std::vector<std::uint16_t> bits(count);
        for (std::size_t i = 0; i < count; ++i) bits[i] = static_cast<std::uint16_t>(i * 40503);
        const auto numbers = random_numbers(count, kNumbers[random_bits() % kNumbers.size()]);
        std::vector<float> wide;
        for (const std::uint16_t x : bits)
          wide.push_back(brain ? float_from_bf16(x) : float_from_f16(x));
        const Memory in(machine, bytes_of(bits), 2 * past);
        const Memory out(machine, std::vector<std::byte>(4 * count), 4 * past);
        cuda::cast(machine.kernels, narrow, DType::Float32, in.data(), out.data(), count, {});
        expect(same(out.bytes("cast"), bytes_of(wide), true), "a cast from ", name_of(narrow));
        const Memory from(machine, bytes_of(numbers), 4 * past);
        const Memory to(machine, std::vector<std::byte>(2 * count), 2 * past);
        cuda::cast(machine.kernels, DType::Float32, narrow, from.data(), to.data(), count, {});
        expect(same(to.bytes("cast"), as(narrow, numbers), false), "a cast to ", name_of(narrow));
      }
    }
  }
}

// Packs 250 pieces of all sizes and alignments, and takes them apart again.
inline void check_copies(const Machine& machine) {
  std::vector<std::size_t> sizes{0, 1, 16, 16384, 16385, 100000};
  while (sizes.size() < 250) sizes.push_back(random_bits() % 3000);
  std::vector<std::unique_ptr<Memory>> pieces, back;
  std::vector<cuda::Copy> pack, unpack;
  std::vector<std::byte> whole;
  for (const std::size_t size : sizes) {
    const auto bytes = random_elements(DType::UInt8, size);
    pieces.push_back(std::make_unique<Memory>(machine, bytes, random_bits() % 2 * 4));
    back.push_back(std::make_unique<Memory>(machine, std::vector<std::byte>(size), 0));
    whole.insert(whole.end(), bytes.begin(), bytes.end());
    if (size % 3 == 0) whole.resize(ceil_div(whole.size(), 16) * 16);
  }
  const Memory packed(machine, std::vector<std::byte>(whole.size()), 0);
  std::size_t at = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    pack.push_back({pieces[i]->data(), packed.data() + at, sizes[i]});
    unpack.push_back({packed.data() + at, back[i]->data(), sizes[i]});
    at += sizes[i];
    if (sizes[i] % 3 == 0) at = ceil_div(at, 16) * 16;
  }
  cuda::copy(machine.kernels, pack, {});
  cuda::copy(machine.kernels, unpack, {});
  expect(packed.bytes("pack") == whole, "what was packed differs");
  for (std::size_t i = 0; i < sizes.size(); ++i)
    expect(back[i]->bytes("unpack") == pieces[i]->bytes("pack"), "piece ", i, " came back changed");
}

}  // namespace quoit::test
