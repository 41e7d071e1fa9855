// What low-rank parts are made of: bases that are orthonormal whatever they are made from, names,
// and mistakes that a rank can see by itself.
#include <cmath>
#include <cstring>
#include <random>

#include "collective/compressed.h"
#include "compress/factoring.h"
#include "world.h"

using namespace quoit;
using namespace quoit::test;

namespace {

void bases_are_orthonormal(Isa isa) {
  const LowRankKernels& kernels = codec_kernels(isa).low_rank;
  constexpr std::size_t kRows = 100, kColumns = 6, kStride = 104;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(kStride * kColumns);
  for (float& value : values) value = normal(random);
  enum class Kind { Random, OneDirection, Zero, Tiny, Huge, SomeZero, NotFinite };
  for (const Kind kind : {Kind::Random, Kind::OneDirection, Kind::Zero, Kind::Tiny, Kind::Huge,
                          Kind::SomeZero, Kind::NotFinite}) {
    std::vector<float> a(kStride * kColumns);
    for (std::size_t c = 0; c < kColumns; ++c)
      for (std::size_t i = 0; i < kRows; ++i) {
        float& x = a[c * kStride + i];
        x = values[c * kStride + i];
        if (kind == Kind::OneDirection) x = values[i] * static_cast<float>(c + 1);
        if (kind == Kind::Zero || (kind == Kind::SomeZero && c % 2 == 1)) x = 0;
        if (kind == Kind::Tiny) x *= 1e-38F;
        if (kind == Kind::Huge) x *= 1e38F / 8;
        if (kind == Kind::NotFinite && c == 2) x = NAN;
      }
    std::vector<float> baseline = a;
    make_orthonormal(kernels, {a.data(), kStride, kColumns}, kRows, 7);
    make_orthonormal(codec_kernels(Isa::Baseline).low_rank, {baseline.data(), kStride, kColumns},
                     kRows, 7);
    EXPECT(std::memcmp(a.data(), baseline.data(), a.size() * sizeof(float)) == 0, "kind ",
           static_cast<int>(kind), " of ", name_of(isa));
    for (std::size_t c = 0; c < kColumns; ++c)
      for (std::size_t d = 0; d < kColumns; ++d) {
        double product = 0;
        for (std::size_t i = 0; i < kStride; ++i)
          product += a[c * kStride + i] * double{a[d * kStride + i]};
        EXPECT(std::abs(product - (c == d ? 1 : 0)) < 1e-6, "kind ", static_cast<int>(kind), ": ",
               c, ", ", d, ": ", product);
      }
  }
}

void mistakes() {
  float memory[64] = {};
  std::int64_t turn = 0;
  const auto with = [&](std::size_t rank, std::size_t rows, std::size_t count, float* residual,
                        const char* codec = "raw") {
    Part part{{0, count}, codec_named(codec), residual};
    part.matrix = std::make_shared<const LowRank>(
        LowRank{LowRank::Method::Acp, rank, rows, 8, memory, memory, &turn});
    return error_of([&] { Compression{{part}}; });
  };
  EXPECT(with(2, 4, 32, memory).empty(), "");
  contains(with(2, 4, 31, memory), "of a 4 x 8 matrix, but the tensor has 31 elements");
  contains(with(5, 4, 32, memory), "the rank can be 1 to 4");
  contains(with(0, 4, 32, memory), "the rank can be 1 to 4");
  contains(with(2, 4, 32, nullptr), "needs a residual");
  contains(with(2, 4, 32, memory, "int8"), "factors travel raw");
}

void names() {
  EXPECT(name_of(*low_rank_named("powersgd(rank=12)")) == "powersgd(rank=12)", "names");
  EXPECT(name_of(*low_rank_named("lowrank(rank=1)")) == "lowrank(rank=1)", "names");
  for (const char* const name :
       {"int8", "lowrank", "lowrank(rank=)", "lowrank(rank=4", "lowrank(rank=4x)"})
    EXPECT(!low_rank_named(name), name);
}

}  // namespace

int main() {
  for (const Isa isa : {Isa::Baseline, Isa::X86V3, Isa::X86V4})
    if (isa_available(isa)) bases_are_orthonormal(isa);
  mistakes();
  names();
  return 0;
}
