// Kernels for the test accelerator, in place of CUDA's: each launch copies its arguments, as CUDA's
// do, and queues the host's stand-in (tests/cpp/cuda_host.h) on the stream, a fake::Stream.

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <utility>

#include "cuda_host.h"
#include "streams.h"

namespace {

using namespace quoit;

std::atomic<long> launches{0};
std::atomic<int> failing{0};  // launches that are still to fail
std::atomic<unsigned> widest{0};

template <class Work>
void queue(const cuda::Launch& launch, Work work) {
  ++launches;
  unsigned most = widest;
  while (launch.most_blocks > most && !widest.compare_exchange_weak(most, launch.most_blocks)) {
  }
  auto* stream = reinterpret_cast<fake::Stream*>(launch.stream);
  if (stream == nullptr) stream = &fake::stream(fake::current_device(), 0);
  stream->enqueue_late(std::move(work));
}

// A launch is a function pointer, and keeps nothing: which of the host's it stands for is part of
// its type.
template <auto Find, class Args>
void queued(const Args& args, const cuda::Launch& launch) {
  queue(launch, [args] { Find(test::host_kernels())(args, {}); });
}

using cuda::KernelSet;

template <std::size_t Codec>
cuda::TileLaunches tiles() {
  return {queued<[](const KernelSet& set) { return set.tiles[Codec].encode; }, cuda::TileArgs>,
          queued<[](const KernelSet& set) { return set.tiles[Codec].sum; }, cuda::TileArgs>,
          queued<[](const KernelSet& set) { return set.tiles[Codec].merge; }, cuda::TileArgs>};
}

template <std::size_t Type, std::size_t Op>
void queued_reduce(const KernelCall& call, const cuda::ReduceArgs& args,
                   const cuda::Launch& launch) {
  queue(launch, [call, args] {
    // The caller's list of inputs is gone by now.
    const KernelCall own{args.in,    call.inputs, call.out,      call.also,
                         call.count, call.factor, call.divide_by};
    test::host_kernels().reduce.at[Type][Op](own, args, {});
  });
}

template <auto Find>
void queued_cast(const std::byte* in, std::byte* out, std::size_t count,
                 const cuda::Launch& launch) {
  queue(launch, [=] { Find(test::host_kernels().casts)(in, out, count, {}); });
}

template <std::size_t... Codecs>
void add_tiles(KernelSet& set, std::index_sequence<Codecs...>) {
  ((set.tiles[Codecs] = tiles<Codecs>()), ...);
}

template <std::size_t Type, std::size_t Op>
void add_reduction(KernelSet& set) {
  if (test::host_kernels().reduce.at[Type][Op] != nullptr)
    set.reduce.at[Type][Op] = queued_reduce<Type, Op>;
}

template <std::size_t... Cells>
void add_reductions(KernelSet& set, std::index_sequence<Cells...>) {
  (add_reduction<Cells / kReduceOps, Cells % kReduceOps>(set), ...);
}

// Whether a kernel launched now runs where it shall: by the driver's stand-in, in the context that
// the thread has made current. NCCL's launches go where torch is, which needs none.
bool in_context() {
  const char* const driver = std::getenv("QUOIT_CUDA_DRIVER");
  const char* const nccl = std::getenv("QUOIT_NCCL");
  if (driver == nullptr || (nccl != nullptr && std::string(nccl) != "off")) return true;
  void* const library = dlopen(driver, RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return true;
  int device = 0;
  return reinterpret_cast<int (*)(int*)>(dlsym(library, "cuCtxGetDevice"))(&device) == 0;
}

void check(const char* what) {
  QUOIT_CHECK(in_context(), UnavailableError, what, ": launched outside of the device's context");
  int left = failing;
  while (left > 0 && !failing.compare_exchange_weak(left, left - 1)) {
  }
  QUOIT_CHECK(left <= 0, UnavailableError, "the test accelerator was told that ", what, " fails");
}

const KernelSet& queued_kernels() {
  static const KernelSet set = [] {
    KernelSet made{};
    add_tiles(made, std::make_index_sequence<cuda::kFormats>());
    made.settle = queued<[](const KernelSet& s) { return s.settle; }, cuda::TileArgs>;
    made.low_rank = {
        .times = queued<[](const KernelSet& s) { return s.low_rank.times; }, cuda::ProductArgs>,
        .transposed_times = queued<[](const KernelSet& s) { return s.low_rank.transposed_times; },
                                   cuda::ProductArgs>,
        .restore = queued<[](const KernelSet& s) { return s.low_rank.restore; }, cuda::RestoreArgs>,
        .orthonormal =
            queued<[](const KernelSet& s) { return s.low_rank.orthonormal; }, cuda::BasisArgs>,
        .judge = queued<[](const KernelSet& s) { return s.low_rank.judge; }, cuda::SumArgs>,
        .keep = queued<[](const KernelSet& s) { return s.low_rank.keep; }, cuda::SumArgs>};
    add_reductions(made, std::make_index_sequence<std::size_t{kDTypes} * kReduceOps>());
    made.casts = {queued_cast<[](const cuda::CastLaunches& c) { return c.from_bf16; }>,
                  queued_cast<[](const cuda::CastLaunches& c) { return c.to_bf16; }>,
                  queued_cast<[](const cuda::CastLaunches& c) { return c.from_f16; }>,
                  queued_cast<[](const cuda::CastLaunches& c) { return c.to_f16; }>};
    made.copy = queued<[](const KernelSet& s) { return s.copy; }, cuda::CopyArgs>;
    made.processors = test::host_kernels().processors;
    made.check = check;
    return made;
  }();
  return set;
}

}  // namespace

extern "C" {

// From now on they are this process's kernels for CUDA; or no longer.
void fake_offer_kernels() { quoit::cuda::offer(&queued_kernels()); }
void fake_withdraw_kernels() { quoit::cuda::offer(nullptr); }

// How many were launched so far, and the largest Launch::most_blocks since this was last asked.
long fake_kernel_launches() { return launches; }
unsigned fake_widest_launch() { return widest.exchange(0); }

// to = a + b, by the kernels that quoit has, in the default stream of the current device.
void fake_add_by_kernels(const float* a, const float* b, float* to, long count) {
  const std::byte* const in[] = {reinterpret_cast<const std::byte*>(a),
                                 reinterpret_cast<const std::byte*>(b)};
  quoit::cuda::reduce(quoit::cuda::kernels(), quoit::DType::Float32, {}, in,
                      reinterpret_cast<std::byte*>(to), nullptr, static_cast<std::size_t>(count),
                      {});
}

// The next so many launches are reported to have failed.
void fake_fail_launches(int count) { failing = count; }
}
