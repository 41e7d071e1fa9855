// What the kernels take on a CUDA device, beside a copy on the device that moves as many bytes.
// Prints a table of Markdown.
#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "compress/codec.h"
#include "device.h"
#include "kernels/cuda_low_rank.h"

using namespace quoit;
using namespace quoit::test;

namespace {

constexpr std::size_t kCount = std::size_t{64} << 20;  // numbers: 256 MiB, above any L2 cache
constexpr std::size_t kPeers = 8;
constexpr int kRounds = 15;

struct Free {
  void operator()(std::byte* memory) const { cudaFree(memory); }
};
using Memory = std::unique_ptr<std::byte, Free>;

Memory allocate(std::size_t bytes) {
  void* memory = nullptr;
  must(cudaMalloc(&memory, bytes), "cudaMalloc");
  return Memory(static_cast<std::byte*>(memory));
}

struct Case {
  std::string name;
  double bytes;   // read and written
  double target;  // of the copy's rate
  std::function<void()> run;
  std::vector<float> ms;
};

float time_ms(const std::function<void()>& run) {
  static cudaEvent_t begin = nullptr, end = nullptr;
  if (begin == nullptr) {
    must(cudaEventCreate(&begin), "cudaEventCreate");
    must(cudaEventCreate(&end), "cudaEventCreate");
  }
  must(cudaEventRecord(begin), "cudaEventRecord");
  run();
  must(cudaEventRecord(end), "cudaEventRecord");
  must(cudaEventSynchronize(end), "cudaEventSynchronize");
  float ms = 0;
  must(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
  return ms;
}

float median(std::vector<float> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A square matrix of all the numbers. The target of the products is that of the CPU's: both of them
// in three copies.
void add_low_rank(std::vector<Case>& cases, const cuda::KernelSet& set,
                  const std::vector<Memory>& floats, const Memory& residual) {
  constexpr std::size_t kSide = 8192;
  static_assert(kSide * kSide == kCount);
  const auto plain = static_cast<double>(4 * kCount);
  static std::vector<Memory> own;  // as long as the cases
  for (const std::size_t rank : {std::size_t{4}, std::size_t{8}}) {
    const auto make = [&] {
      const std::size_t bytes = 4 * rank * factor_stride(kSide);
      Memory& memory = own.emplace_back(allocate(bytes));
      must(cudaMemcpy(memory.get(), floats[0].get(), bytes, cudaMemcpyDefault), "cudaMemcpy");
      return Factor{reinterpret_cast<float*>(memory.get()), factor_stride(kSide), rank};
    };
    const Factor left = make(), right = make(), basis = make(), out = make();
    std::byte* const scratch =
        own.emplace_back(allocate(std::max(cuda::product_scratch(kSide, kSide, rank),
                                           cuda::basis_scratch(kSide, rank))))
            .get();
    auto* const judged =
        reinterpret_cast<cuda::Judged*>(own.emplace_back(allocate(sizeof(cuda::Judged))).get());
    auto* const kept = reinterpret_cast<float*>(residual.get());
    const cuda::LowRankMatrix m{floats.back().get(), kept, kSide, kSide};
    const std::string name = text("low rank ", rank, ", ");
    cases.push_back({name + "M Q",
                     2 * plain,
                     0.67,
                     [=, &set] { cuda::low_rank_times(set, m, right, out, scratch, {}); },
                     {}});
    cases.push_back({name + "M^T P",
                     2 * plain,
                     0.67,
                     [=, &set] { cuda::low_rank_transposed_times(set, m, left, out, scratch, {}); },
                     {}});
    cases.push_back({name + "P Q^T and what is lost",
                     4 * plain,
                     0.67,
                     [=, &set] {
                       cuda::judge_sum(set, left, judged, {});
                       cuda::low_rank_restore(set, m, {left, right}, {left, right}, judged, {});
                     },
                     {}});
    cases.push_back({name + "an orthonormal basis",
                     static_cast<double>(4 * rank * kSide),
                     0,
                     [=, &set] { cuda::make_orthonormal(set, basis, kSide, 1, scratch, {}); },
                     {}});
  }
}

}  // namespace

int main() {
  need_device();
  const cuda::KernelSet& set = cuda::kernels();
  const auto plain = static_cast<double>(4 * kCount);
  std::vector<Memory> floats;
  for (std::size_t k = 0; k < kPeers; ++k) floats.push_back(allocate(4 * kCount));
  const Memory residual = allocate(4 * kCount), out = allocate(4 * kCount);

  // Numbers that are none of zero: what a codec makes of noise is noise again.
  std::vector<float> noise(kCount);
  std::uint64_t state = 1;
  for (float& x : noise) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    x = static_cast<float>(static_cast<std::int32_t>(state >> 32)) * 0x1p-31F;
  }
  for (const Memory& memory : floats)
    must(cudaMemcpy(memory.get(), noise.data(), 4 * kCount, cudaMemcpyDefault), "cudaMemcpy");
  must(cudaMemset(residual.get(), 0, 4 * kCount), "cudaMemset");

  std::vector<Case> cases;
  cases.push_back(
      {"copy",
       2 * plain,
       0,
       [&] {
         must(cudaMemcpyAsync(out.get(), floats[0].get(), 4 * kCount, cudaMemcpyDeviceToDevice),
              "cudaMemcpyAsync");
       },
       {}});
  std::vector<std::unique_ptr<std::vector<Memory>>> encoded;
  for (const std::string name :
       {"bf16", "bf16(stochastic)", "fp8", "int8", "int4", "int4(hadamard)", "sign", "sign(vote)",
        "topk(ratio=0.01, bits=8)", "topk(ratio=0.1, bits=4)"}) {
    const cuda::Codec codec = cuda::codec_called(name);
    const std::size_t bytes = kCount / kTile * codec_named(name)->bytes(kTile);
    const auto small = static_cast<double>(bytes);
    const cuda::Run lossy{out.get(), nullptr, kCount, 0, 0, DType::Float32};
    const cuda::Run from{floats[0].get(), nullptr, kCount, 0, 0, DType::Float32};
    cuda::Run kept = from;
    kept.residual = reinterpret_cast<float*>(residual.get());
    auto& peers = *encoded.emplace_back(std::make_unique<std::vector<Memory>>());
    std::vector<const std::byte*> theirs;
    for (std::size_t k = 0; k < kPeers; ++k) {
      peers.push_back(allocate(bytes));
      cuda::encode(set, codec, {&from, 1}, {}, peers[k].get(), {});
      theirs.push_back(peers[k].get());
    }
    theirs[kPeers / 2] = nullptr;
    std::byte* const to = peers[kPeers / 2].get();
    const std::byte* const one = peers[0].get();
    const double others = (kPeers - 1) * small;
    cases.push_back({name + " encode",
                     plain + small,
                     0.8,
                     [=, &set] { cuda::encode(set, codec, {&from, 1}, {}, to, {}); },
                     {}});
    cases.push_back({name + " encode with residual",
                     3 * plain + small,
                     0.8,
                     [=, &set] { cuda::encode(set, codec, {&kept, 1}, {}, to, {}); },
                     {}});
    cases.push_back({name + " decode",
                     plain + small,
                     0.8,
                     [=, &set] { cuda::decode(set, codec, {&lossy, 1}, one, {}); },
                     {}});
    cases.push_back({name + " decode-add of 8",
                     2 * plain + others,
                     0.8,
                     [=, &set] { cuda::sum(set, codec, {&lossy, 1}, theirs, {}, {}); },
                     {}});
    cases.push_back({name + " merge of 8",
                     plain + others + small,
                     0.8,
                     [=, &set] { cuda::merge(set, codec, {&from, 1}, theirs, {}, to, {}); },
                     {}});
  }
  for (const DType dtype : {DType::Float32, DType::BFloat16, DType::Float16, DType::Float64,
                            DType::Int32, DType::Int8}) {
    for (const std::size_t n : {std::size_t{2}, kPeers}) {
      std::vector<const std::byte*> in;
      for (std::size_t k = 0; k < n; ++k) in.push_back(floats[k].get());
      cases.push_back({text("SUM of ", n, " ", name_of(dtype)),
                       static_cast<double>(n + 1) * plain,
                       0.85,
                       [=, &set, to = out.get()] {
                         cuda::reduce(set, dtype, {}, in, to, nullptr, 4 * kCount / size_of(dtype),
                                      {});
                       },
                       {}});
    }
  }
  cases.push_back({"cast of float32 to bfloat16",
                   1.5 * plain,
                   0.8,
                   [&] {
                     cuda::cast(set, DType::Float32, DType::BFloat16, floats[0].get(), out.get(),
                                kCount, {});
                   },
                   {}});
  std::vector<cuda::Copy> pieces;
  for (std::size_t at = 0; at < 4 * kCount; at += std::size_t{256} << 10)
    pieces.push_back({floats[0].get() + at, out.get() + at, std::size_t{256} << 10});
  cases.push_back(
      {"pack of 1024 pieces", 2 * plain, 0.8, [&] { cuda::copy(set, pieces, {}); }, {}});

  add_low_rank(cases, set, floats, residual);

  for (Case& one : cases) time_ms(one.run);
  for (int round = 0; round < kRounds; ++round)
    for (Case& one : cases) one.ms.push_back(time_ms(one.run));
  const double copy = cases[0].bytes / median(cases[0].ms);
  std::printf("\n| 64 Mi numbers | µs | GB/s | of the copy | target |\n|---|---|---|---|---|\n");
  int missed = 0;
  for (const Case& one : cases) {
    const float ms = median(one.ms);
    const double share = one.bytes / ms / copy;
    missed += share < one.target ? 1 : 0;
    std::printf("| %s | %.0f | %.0f | %.2f | %s |\n", one.name.c_str(), 1e3 * ms,
                one.bytes / ms * 1e-6, share,
                one.target == 0      ? "–"
                : share < one.target ? text(one.target, ", missed").c_str()
                                     : text(one.target).c_str());
  }
  std::printf("\n%d of %zu targets missed\n", missed, cases.size() - 1);
  return 0;
}
