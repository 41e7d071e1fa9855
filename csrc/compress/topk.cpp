// The largest numbers of each tile, exact in place and rounded in size; the others count as 0. For
// use with error feedback, as in Stich et al., "Sparsified SGD with Memory", 2018. So many of each
// tile rather than of the whole tensor: a tile's size is known beforehand, and 12 bits say where.
//
// A tile is its own block: where anything is not finite, all of it decodes to NaN. The finite
// numbers beside it could not be told from those that were left out.
#include <array>
#include <charconv>

#include "compress/codec.h"
#include "kernels/topk_format.h"

namespace quoit {
namespace {

class TopK final : public Codec {
 public:
  TopK(const TopKForm& form, const CodecKernels& kernels) : Codec(kernels), form_(form) {}

  [[nodiscard]] std::string name() const override {
    std::array<char, 32> ratio{};
    const auto end = std::to_chars(ratio.data(), ratio.data() + ratio.size(), form_.ratio,
                                   std::chars_format::general);
    return text("topk(ratio=", std::string_view(ratio.data(), end.ptr), ", bits=", form_.bits, ")");
  }
  [[nodiscard]] std::size_t bytes(std::size_t count) const override {
    return topk_bytes(layout(count));
  }
  void encode(const Source& from, std::byte* out) const override {
    kernels_.topk.encode(from, layout(from.count), out);
  }
  void decode(const std::byte* in, float* out, std::size_t count) const override {
    kernels_.topk.decode(in, layout(count), out, count);
  }
  void add(const std::byte* in, float* sum, std::size_t count) const override {
    kernels_.topk.add(in, layout(count), sum, count);
  }

 private:
  [[nodiscard]] TopKLayout layout(std::size_t count) const { return topk_layout(form_, count); }

  TopKForm form_;
};

}  // namespace

CodecPtr make_topk(std::string_view name, const CodecKernels& kernels) {
  const std::optional<TopKForm> form = topk_named(name);
  return form ? std::make_shared<TopK>(*form, kernels) : nullptr;
}

}  // namespace quoit
