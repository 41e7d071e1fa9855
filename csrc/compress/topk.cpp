// The largest numbers of each tile, exact in place and rounded in size; the others count as 0. For
// use with error feedback, as in Stich et al., "Sparsified SGD with Memory", 2018. So many of each
// tile rather than of the whole tensor: a tile's size is known beforehand, and 12 bits say where.
//
// A tile is its own block: where anything is not finite, all of it decodes to NaN. The finite
// numbers beside it could not be told from those that were left out.
#include <array>
#include <charconv>
#include <cmath>

#include "compress/codec.h"
#include "kernels/topk_format.h"

namespace quoit {
namespace {

class TopK final : public Codec {
 public:
  TopK(double ratio, std::size_t bits, const CodecKernels& kernels)
      : Codec(kernels), ratio_(ratio), bits_(bits) {}

  [[nodiscard]] std::string name() const override {
    std::array<char, 32> ratio{};
    const auto end = std::to_chars(ratio.data(), ratio.data() + ratio.size(), ratio_,
                                   std::chars_format::general);
    return text("topk(ratio=", std::string_view(ratio.data(), end.ptr), ", bits=", bits_, ")");
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
  [[nodiscard]] TopKLayout layout(std::size_t count) const {
    const double kept = std::floor(ratio_ * static_cast<double>(count) + 0.5);
    return {kept < 1 ? 1 : static_cast<std::size_t>(kept), bits_};
  }

  double ratio_;
  std::size_t bits_;
};

// Takes a number and what must follow it off the front.
template <class Number>
bool take(std::string_view& name, Number& number, std::string_view then) {
  const auto end = std::from_chars(name.data(), name.data() + name.size(), number);
  if (end.ec != std::errc{}) return false;
  name.remove_prefix(static_cast<std::size_t>(end.ptr - name.data()));
  if (!name.starts_with(then)) return false;
  name.remove_prefix(then.size());
  return true;
}

}  // namespace

CodecPtr make_topk(std::string_view name, const CodecKernels& kernels) {
  constexpr std::string_view kRatio = "topk(ratio=";
  std::string_view rest = name;
  double ratio = 0;
  int bits = 0;
  rest.remove_prefix(rest.starts_with(kRatio) ? kRatio.size() : rest.size());
  if (!take(rest, ratio, ", bits=") || !take(rest, bits, ")") || !rest.empty()) return nullptr;
  QUOIT_CHECK(ratio > 0 && ratio <= 0.25, UsageError, "TopK: ratio is ", ratio,
              ", but must be above 0 and at most 0.25: where so many count, Int4 loses less");
  QUOIT_CHECK(bits == 2 || bits == 4 || bits == 8, UsageError, "TopK: bits is ", bits,
              ", but must be 2, 4 or 8");
  return std::make_shared<TopK>(ratio, static_cast<std::size_t>(bits), kernels);
}

}  // namespace quoit
