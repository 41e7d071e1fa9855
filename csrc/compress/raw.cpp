// The float32 numbers themselves: for tensors too small to gain from a codec, and for the factors
// of low-rank ones. A mean of them has the bits of a plain all_reduce in rank order.
#include <algorithm>

#include "compress/codec.h"
#include "core/copy.h"

namespace quoit {
namespace {

class Raw final : public Codec {
 public:
  using Codec::Codec;
  [[nodiscard]] std::string name() const override { return "raw"; }
  [[nodiscard]] std::size_t bytes(std::size_t count) const override {
    return count * sizeof(float);
  }
  // Nothing is lost, whatever was carried: the residual becomes zero.
  void encode(const Source& from, std::byte* out) const override {
    kernels_.load(from, reinterpret_cast<float*>(out));
    if (from.residual) std::fill_n(from.residual, from.count, 0.0F);
  }
  void decode(const std::byte* in, float* out, std::size_t count) const override {
    copy_bytes(in, reinterpret_cast<std::byte*>(out), count * sizeof(float));
  }
  void add(const std::byte* in, float* sum, std::size_t count) const override {
    kernels_.add(reinterpret_cast<const float*>(in), sum, count);
  }
};

}  // namespace

CodecPtr make_raw(const CodecKernels& kernels) { return std::make_shared<Raw>(kernels); }

}  // namespace quoit
