// One bit for each number and the mean magnitude of 256. For use with error feedback (Karimireddy
// et al., "Error Feedback Fixes SignSGD", 2019); by majority vote as in Bernstein et al., "signSGD
// with Majority Vote is Communication Efficient and Fault Tolerant", 2019.
#include <array>
#include <vector>

#include "compress/codec.h"
#include "kernels/sign_format.h"

namespace quoit {
namespace {

class Sign : public Codec {
 public:
  using Codec::Codec;
  [[nodiscard]] std::string name() const override { return "sign"; }
  [[nodiscard]] std::size_t bytes(std::size_t count) const override { return sign_bytes(count); }
  void encode(const Source& from, std::byte* out) const override {
    kernels_.sign.encode(from, out);
  }
  void decode(const std::byte* in, float* out, std::size_t count) const override {
    kernels_.sign.decode(in, out, count);
  }
  void add(const std::byte* in, float* sum, std::size_t count) const override {
    kernels_.sign.add(in, sum, count);
  }
};

class SignVotes final : public Sign {
 public:
  using Sign::Sign;
  [[nodiscard]] std::string name() const override { return "sign(vote)"; }

  // The owner has one vote, as everybody: its part is encoded, too.
  void sum(const Contributions& from, float* out) const override {
    Source source = from.own;
    source.residual = nullptr;
    std::array<std::byte, sign_bytes(kTile)> own;
    encode(source, own.data());
    std::vector<const std::byte*> tiles(from.theirs.begin(), from.theirs.end());
    for (const std::byte*& tile : tiles) {
      if (tile == nullptr) tile = own.data();
    }
    kernels_.sign.vote({tiles.data(), tiles.size(), source.count, from.divide_by, source.key}, out);
  }
};

}  // namespace

CodecPtr make_sign(const CodecKernels& kernels) { return std::make_shared<Sign>(kernels); }
CodecPtr make_sign_vote(const CodecKernels& kernels) {
  return std::make_shared<SignVotes>(kernels);
}

}  // namespace quoit
