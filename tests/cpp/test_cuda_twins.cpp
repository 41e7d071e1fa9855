// The code of the CUDA kernels, run by the host, beside the CPU's: the same bits. tests/cuda runs
// the same cases on a device.
#include <cstdlib>

#include "cuda_codec_cases.h"
#include "cuda_host.h"
#include "cuda_low_rank_cases.h"
#include "cuda_reduce_cases.h"
#include "kernels/lanes_plain.h"

#include "kernels/codec_loops.h"

using namespace quoit;
using namespace quoit::test;

namespace {

const Machine kHost{
    host_kernels(),
    [](std::size_t bytes) { return std::aligned_alloc(256, ceil_div(bytes, 256) * 256); },
    [](void* memory) { std::free(memory); },
    [](const void* from, void* to, std::size_t bytes) { std::memcpy(to, from, bytes); },
};

template <class E = UsageError, class Call>
void expect_refused(const std::string& part, const Call& call) {
  try {
    call();
    expect(false, "not refused: ", part);
  } catch (const E& error) {
    expect(std::string(error.what()).find(part) != std::string::npos, "'", error.what(),
           "' without '", part, "'");
  }
}

float sum_on_the_cpu(const float* block, float factor) {
  Magnitudes sum;
  for (std::size_t i = 0; i < kSignBlock; i += kSignWord)
    static_cast<void>(signs_32<false, false>(block + i, factor, nullptr, 0, nullptr, sum));
  return sum.total();
}

// The order of a sum shows in no more than its last bits, which a scale has no room for.
void check_sign_sums() {
  for (int i = 0; i < 1000; ++i) {
    const std::vector<float> numbers = random_numbers(kRow, kNumbers[i % 2]);
    Warp::Each<Held> held;
    for (unsigned lane = 0; lane < 32; ++lane) {
      for (unsigned k = 0; k < kHeld; ++k)
        held[lane].at[k] = numbers[Columns::first(lane) + Columns::offset(k)];
    }
    for (const float factor : {1.0F, 1.0F / kSignBlock}) {
      const auto sums = sum_of_sizes(Warp{}, held, factor);
      for (unsigned lane = 0; lane < 32; ++lane) {
        const float expected = sum_on_the_cpu(&numbers[lane / 16 * kSignBlock], factor);
        expect(same(bytes_of(std::vector{sums[lane]}), bytes_of(std::vector{expected}), true),
               "lane ", lane, " sums up to ", sums[lane], " instead of ", expected);
      }
    }
  }
}

// A build without CUDA says so; one with it has a kernel for all that the host can do.
void check_build() {
  expect(cuda::unfit(0).empty() <= !cuda::status().devices.empty(), "no device, and it is fit");
  if (cuda::built().empty()) {
    expect_refused<UnavailableError>("this build of quoit has none", [] { cuda::kernels(); });
    expect_refused<UnavailableError>("this build of quoit has none", [] { cuda::require(); });
    expect(cuda::status().devices.empty(), "a device for no kernels");
    return;
  }
  const cuda::KernelSet &ours = cuda::kernels(), &host = host_kernels();
  for (int d = 0; d < kDTypes; ++d) {
    for (int o = 0; o < kReduceOps; ++o) {
      expect((ours.reduce.at[d][o] == nullptr) == (host.reduce.at[d][o] == nullptr),
             name_of(static_cast<ReduceOp>(o)), " of ", name_of(static_cast<DType>(d)));
    }
  }
  for (const cuda::TileLaunches& tiles : ours.tiles)
    expect(tiles.encode && tiles.sum && tiles.merge, "a codec without its kernels");
  const cuda::LowRankLaunches& low_rank = ours.low_rank;
  expect(low_rank.times && low_rank.transposed_times && low_rank.restore && low_rank.orthonormal &&
             low_rank.judge && low_rank.keep,
         "low rank without its kernels");
  if (cuda::status().devices.empty())
    expect_refused<UnavailableError>("no device that can be used", [] { cuda::require(); });
}

// Kernels that are offered take the place of this build's, until they are taken back.
void check_offer() {
  cuda::offer(&host_kernels());
  expect(&cuda::kernels() == &host_kernels(), "not the kernels that were offered");
  cuda::require();
  cuda::offer(nullptr);
  expect(cuda::offered() == nullptr, "kernels that were taken back");
}

void check_refusals() {
  const std::vector<const std::byte*> inputs(cuda::kMostPeers + 1);
  const cuda::KernelSet& set = host_kernels();
  expect_refused("'topk' has no kernels", [] { cuda::codec_called("topk"); });
  expect_refused("a sum of 129 encoded buffers",
                 [&] { cuda::sum(set, {cuda::Format::Int8}, {}, inputs, {}, {}); });
  expect_refused("SUM of 129 inputs on a CUDA device",
                 [&] { cuda::reduce(set, DType::Float32, {}, inputs, nullptr, nullptr, 1, {}); });
  expect_refused("of no inputs",
                 [&] { cuda::reduce(set, DType::Float32, {}, {}, nullptr, nullptr, 1, {}); });
  expect_refused("a cast from int8 to float32",
                 [&] { cuda::cast(set, DType::Int8, DType::Float32, nullptr, nullptr, 1, {}); });
  alignas(16) float factor[8] = {};
  expect_refused("must lie at a multiple of 16",
                 [&] { cuda::judge_sum(set, {factor + 1, 8, 1}, nullptr, {}); });
}

}  // namespace

int main() {
  check_codecs(kHost);
  check_low_rank_kernels(kHost);
  check_reductions(kHost);
  check_casts(kHost);
  check_copies(kHost);
  check_sign_sums();
  check_refusals();
  check_offer();
  check_build();
  if (failures > 0) std::printf("%d failures\n", failures);
  return failures > 0 ? 1 : 0;
}
