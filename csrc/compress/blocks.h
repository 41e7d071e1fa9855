#pragma once
// Codecs whose tiles are blocks that share a scale: only the kernels and the layout differ.
#include "compress/codec.h"
#include "kernels/quantize.h"

namespace quoit {

class BlockCodec final : public Codec {
 public:
  // `tiles` is one of those in `kernels`.
  BlockCodec(std::string name, const BlockLayout& layout, const TileKernels& tiles,
             const CodecKernels& kernels)
      : Codec(kernels), name_(std::move(name)), layout_(layout), tiles_(tiles) {}

  [[nodiscard]] std::string name() const override { return name_; }
  [[nodiscard]] std::size_t bytes(std::size_t count) const override {
    return tile_bytes(layout_, count);
  }
  void encode(const Source& from, std::byte* out) const override { tiles_.encode(from, out); }
  void decode(const std::byte* in, float* out, std::size_t count) const override {
    tiles_.decode(in, out, count);
  }
  void add(const std::byte* in, float* sum, std::size_t count) const override {
    tiles_.add(in, sum, count);
  }

 private:
  std::string name_;
  BlockLayout layout_;
  const TileKernels& tiles_;
};

}  // namespace quoit
