#include "kernels/cuda.h"

#include <algorithm>
#include <array>
#include <atomic>

#include "kernels/codec_kernels.h"

namespace quoit::cuda {
namespace {

// Those before TopK, whose name has numbers.
constexpr std::array<std::string_view, kFormats - 1> kNames{
    "raw",  "bf16",      "bf16(stochastic)", "fp8", "int8", "int4", "int4(hadamard)",
    "sign", "sign(vote)"};

std::atomic<const KernelSet*> stand_in{nullptr};

const TileLaunches& tiles_of(const KernelSet& set, const Codec& codec) {
  return set.tiles[static_cast<std::size_t>(codec.format)];
}

// A launch's arguments for as many of the runs as it has room for; takes those off.
TileArgs next_launch(std::span<const Run>& runs, const TileArgs& common, bool residuals) {
  TileArgs args = common;
  for (const Run& run : runs.first(std::min<std::size_t>(runs.size(), kMostRuns))) {
    args.tiles += static_cast<unsigned>(ceil_div(run.count, kTile));
    args.runs[args.run_count] = run;
    if (!residuals) args.runs[args.run_count].residual = nullptr;
    args.ends[args.run_count++] = args.tiles;
  }
  runs = runs.subspan(args.run_count);
  return args;
}

void launch_tiles(void (*kernel)(const TileArgs&, const Launch&), std::span<const Run> runs,
                  const TileArgs& common, bool residuals, const Launch& launch) {
  while (!runs.empty()) {
    const TileArgs args = next_launch(runs, common, residuals);
    if (args.tiles > 0) kernel(args, launch);
  }
}

TileArgs common_args(const Codec& codec, const Terms& terms,
                     std::span<const std::byte* const> theirs) {
  QUOIT_CHECK(theirs.size() <= kMostPeers, UsageError, "a sum of ", theirs.size(),
              " encoded buffers on a CUDA device: one launch takes at most ", kMostPeers,
              "; sum them in a hierarchy of groups");
  TileArgs args{};
  args.terms = terms;
  args.topk = codec.topk;
  args.per_unit = 1 / terms.unit;
  std::copy(theirs.begin(), theirs.end(), args.theirs);
  args.peers = static_cast<unsigned>(theirs.size());
  return args;
}

// Elements before the first address that is a multiple of 16, if it is the same for all; `count`,
// so that no pack is left, if not.
std::size_t head_of(const KernelCall& call, std::size_t size) {
  const auto past = [](const std::byte* at) { return reinterpret_cast<std::uintptr_t>(at) % 16; };
  bool alike = call.also == nullptr || past(call.also) == past(call.out);
  for (std::size_t k = 0; k < call.inputs; ++k) alike &= past(call.in[k]) == past(call.out);
  return alike ? std::min(call.count, (16 - past(call.out)) % 16 / size) : call.count;
}

}  // namespace

void offer(const KernelSet* set) { stand_in = set; }

const KernelSet* offered() { return stand_in; }

const KernelSet& kernels() {
  const KernelSet* const set = offered();
  return set != nullptr ? *set : built_kernels();
}

void require() {
  if (offered() != nullptr) return;
  built_kernels();
  const Status found = status();
  QUOIT_CHECK(!found.devices.empty(), UnavailableError,
              "CUDA asked for, but this machine has no device that can be used: ", found.problem,
              "; `nvidia-smi` shows what the driver sees, and CUDA_VISIBLE_DEVICES may hide it");
}

bool run_everywhere() {
  if (offered() != nullptr) return true;
  const std::size_t devices = status().devices.size();
  for (std::size_t device = 0; device < devices; ++device)
    if (!unfit(static_cast<int>(device)).empty()) return false;
  return devices > 0;
}

Codec codec_called(std::string_view name) {
  if (const std::optional<TopKForm> form = topk_named(name)) return {Format::TopK, *form};
  const auto* const found = std::find(kNames.begin(), kNames.end(), name);
  QUOIT_CHECK(found != kNames.end(), UsageError, "codec '", name,
              "' has no kernels for CUDA devices: move the tensors to the CPU, or choose another");
  return {static_cast<Format>(found - kNames.begin())};
}

void encode(const KernelSet& set, const Codec& codec, std::span<const Run> runs, const Terms& terms,
            std::byte* out, const Launch& launch) {
  TileArgs args = common_args(codec, terms, {});
  args.out = out;
  launch_tiles(tiles_of(set, codec).encode, runs, args, true, launch);
  set.check("encode");
}

void encode_value(const KernelSet& set, const Codec& codec, std::span<const Run> runs,
                  const Terms& terms, std::byte* out, const Launch& launch) {
  TileArgs args = common_args(codec, terms, {});
  args.out = out;
  args.stage = 1;
  launch_tiles(tiles_of(set, codec).encode, runs, args, false, launch);
  set.check("encode");
}

void merge(const KernelSet& set, const Codec& codec, std::span<const Run> runs,
           std::span<const std::byte* const> theirs, const Terms& terms, std::byte* out,
           const Launch& launch) {
  TileArgs args = common_args(codec, terms, theirs);
  args.out = out;
  // Only votes are drawn by the key of the sum; what rounds at random has one for the second time.
  args.stage = codec.format == Format::SignVote ? 0 : 1;
  launch_tiles(tiles_of(set, codec).merge, runs, args, true, launch);
  set.check("merge");
}

void sum(const KernelSet& set, const Codec& codec, std::span<const Run> runs,
         std::span<const std::byte* const> theirs, const Terms& terms, const Launch& launch) {
  launch_tiles(tiles_of(set, codec).sum, runs, common_args(codec, terms, theirs), true, launch);
  set.check("sum");
}

void decode(const KernelSet& set, const Codec& codec, std::span<const Run> runs,
            const std::byte* in, const Launch& launch) {
  const bool vote = codec.format == Format::SignVote;
  const TileArgs args = common_args(codec, {}, {&in, 1});
  launch_tiles(tiles_of(set, vote ? Codec{Format::Sign} : codec).sum, runs, args, false, launch);
  set.check("decode");
}

void settle(const KernelSet& set, std::span<const Run> runs, const Terms& terms,
            const Launch& launch) {
  launch_tiles(set.settle, runs, common_args({}, terms, {}), true, launch);
  set.check("settle");
}

void reduce(const KernelSet& set, DType dtype, const ReduceStep& step,
            std::span<const std::byte* const> in, std::byte* out, std::byte* also,
            std::size_t count, const Launch& launch) {
  check_reducible(dtype, step.op);
  QUOIT_CHECK(!in.empty(), UsageError, name_of(step.op), " of no inputs: give at least one");
  QUOIT_CHECK(step.divide_by > 0, UsageError, name_of(step.op), " cannot divide by 0");
  QUOIT_CHECK(in.size() <= kMostPeers, UsageError, name_of(step.op), " of ", in.size(),
              " inputs on a CUDA device: one launch takes at most ", kMostPeers,
              "; reduce them in a hierarchy of groups");
  if (count == 0) return;
  const bool plain = step.op == ReduceOp::Avg && step.divide_by == 1;
  const KernelCall call{in.data(), in.size(), out, also, count, step.factor, step.divide_by};
  ReduceArgs args{};
  std::copy(in.begin(), in.end(), args.in);
  args.out = out;
  args.also = also;
  args.inputs = static_cast<unsigned>(in.size());
  args.count = count;
  args.head = head_of(call, size_of(dtype));
  args.packs = (count - args.head) / (16 / size_of(dtype));
  const auto op = static_cast<std::size_t>(plain ? ReduceOp::Sum : step.op);
  set.reduce.at[static_cast<std::size_t>(dtype)][op](call, args, launch);
  set.check("reduce");
}

void cast(const KernelSet& set, DType from, DType to, const std::byte* in, std::byte* out,
          std::size_t count, const Launch& launch) {
  CastLaunch kernel = nullptr;
  if (from == DType::BFloat16 && to == DType::Float32) kernel = set.casts.from_bf16;
  if (from == DType::Float32 && to == DType::BFloat16) kernel = set.casts.to_bf16;
  if (from == DType::Float16 && to == DType::Float32) kernel = set.casts.from_f16;
  if (from == DType::Float32 && to == DType::Float16) kernel = set.casts.to_f16;
  QUOIT_CHECK(kernel != nullptr, UsageError, "a cast from ", name_of(from), " to ", name_of(to),
              " on a CUDA device: there are those between float32 and bfloat16 or float16");
  if (count == 0) return;
  kernel(in, out, count, launch);
  set.check("cast");
}

void copy(const KernelSet& set, std::span<const Copy> copies, const Launch& launch) {
  while (!copies.empty()) {
    CopyArgs args{};
    for (const Copy& one : copies.first(std::min<std::size_t>(copies.size(), kMostCopies))) {
      args.chunks += static_cast<unsigned>(ceil_div(one.bytes, kCopyChunk));
      args.copies[args.copy_count] = one;
      args.ends[args.copy_count++] = args.chunks;
    }
    copies = copies.subspan(args.copy_count);
    if (args.chunks > 0) set.copy(args, launch);
  }
  set.check("copy");
}

}  // namespace quoit::cuda
