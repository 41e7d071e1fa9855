#pragma once
// The codecs of kernels/cuda.h beside those of the CPU, bit for bit: every step of a compressed
// all_reduce, as compress/tiles.h has them.
#include <memory>

#include "compress/tiles.h"
#include "cuda_machine.h"

namespace quoit::test {

// The tensors of one buffer, a rank's data and residuals, on host and device.

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
  for (const std::string codec :
       {"raw", "bf16", "bf16(stochastic)", "fp8", "int8", "int4", "int4(hadamard)", "sign",
        "sign(vote)", "topk(ratio=0.01, bits=8)", "topk(ratio=0.05, bits=4)",
        "topk(ratio=0.25, bits=2)", "topk(ratio=1e-05, bits=8)"}) {
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

}  // namespace quoit::test
