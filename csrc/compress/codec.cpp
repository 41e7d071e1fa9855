#include "compress/codec.h"

#include <array>

namespace quoit {

void Codec::sum(const Contributions& from, float* out) const {
  const std::size_t count = from.own.count;
  alignas(64) std::array<float, kTile> own;
  bool empty = true;
  for (const std::byte* const theirs : from.theirs) {
    if (theirs == nullptr) {
      kernels_.load(from.own, empty ? out : own.data());
      if (!empty) kernels_.add(own.data(), out, count);
    } else if (empty) {
      decode(theirs, out, count);
    } else {
      add(theirs, out, count);
    }
    empty = false;
  }
  if (from.divide_by > 1) {
    auto* const bytes = reinterpret_cast<std::byte*>(out);
    const std::array<const std::byte*, 1> total{bytes};
    reduce(DType::Float32, {ReduceOp::Avg, 1.0, from.divide_by}, total, bytes, nullptr, count);
  }
}

CodecPtr codec_named(std::string_view name, Isa isa) {
  const CodecKernels& kernels = codec_kernels(isa);
  if (name == "raw") return make_raw(kernels);
  if (name == "sign") return make_sign(kernels);
  if (name == "sign(vote)") return make_sign_vote(kernels);
  if (name == "bf16") return make_bf16(kernels);
  if (name == "bf16(stochastic)") return make_bf16_stochastic(kernels);
  if (name == "fp8") return make_fp8(kernels);
  if (name == "int4") return make_int4(kernels);
  if (name == "int4(hadamard)") return make_int4_hadamard(kernels);
  if (name == "int8") return make_int8(kernels);
  if (CodecPtr topk = make_topk(name, kernels)) return topk;
  throw UsageError(text("codec '", name,
                        "' is not known: choose raw, bf16, bf16(stochastic), fp8, int8, int4, "
                        "int4(hadamard), sign, sign(vote) or topk(ratio=0.01, bits=8)"));
}

}  // namespace quoit
