#pragma once
// A codec writes float32 numbers in fewer bytes. It works tile by tile (kernels/codec_kernels.h),
// and a tile's size in bytes follows from its count alone, so that ranks know what to expect.
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "kernels/codec_kernels.h"

namespace quoit {

// What the ranks give to one tile of a sum; the one that owns the tile adds it up.
struct Contributions {
  Source own;                                // its residual is not written
  std::span<const std::byte* const> theirs;  // encoded, in rank order; null at the owner's place
  std::uint64_t divide_by = 1;               // of the sum: the number of ranks, for a mean
};

class Codec {
 public:
  explicit Codec(const CodecKernels& kernels) : kernels_(kernels) {}
  virtual ~Codec() = default;
  Codec(const Codec&) = delete;
  Codec& operator=(const Codec&) = delete;

  // "int8", "int4(hadamard)": codecs of equal names read each other's bytes.
  [[nodiscard]] virtual std::string name() const = 0;

  // How many bytes a tile of `count` elements takes: a multiple of 4, so that tiles which follow
  // one another stay aligned.
  [[nodiscard]] virtual std::size_t bytes(std::size_t count) const = 0;

  // Writes bytes(from.count) bytes. A block of zeros decodes to zeros; one that holds anything not
  // finite decodes to NaN. (A tile, of codecs whose blocks are tiles.)
  virtual void encode(const Source& from, std::byte* out) const = 0;

  // The same bits on every machine.
  virtual void decode(const std::byte* in, float* out, std::size_t count) const = 0;

  // sum[i] += decoded[i]
  virtual void add(const std::byte* in, float* sum, std::size_t count) const = 0;

  // Adds up in float32, in rank order, the own part unrounded; divides at the end.
  virtual void sum(const Contributions& from, float* out) const;

  [[nodiscard]] const CodecKernels& kernels() const { return kernels_; }

 protected:
  const CodecKernels& kernels_;
};

using CodecPtr = std::shared_ptr<const Codec>;

// One of each file of this folder.
CodecPtr make_raw(const CodecKernels& kernels);
CodecPtr make_sign(const CodecKernels& kernels);
CodecPtr make_sign_vote(const CodecKernels& kernels);
CodecPtr make_bf16(const CodecKernels& kernels);
CodecPtr make_bf16_stochastic(const CodecKernels& kernels);
CodecPtr make_fp8(const CodecKernels& kernels);
CodecPtr make_int4(const CodecKernels& kernels);
CodecPtr make_int4_hadamard(const CodecKernels& kernels);
CodecPtr make_int8(const CodecKernels& kernels);
// Of a name such as "topk(ratio=0.01, bits=8)": null for other names, UsageError for other numbers.
CodecPtr make_topk(std::string_view name, const CodecKernels& kernels);

// The codec of that name: "raw", "bf16", "bf16(stochastic)", "fp8", "int8", "int4",
// "int4(hadamard)", "sign", "sign(vote)", "topk(ratio=0.01, bits=8)" with a ratio of up to 0.25 and
// 2, 4 or 8 bits. Throws UsageError for any other.
CodecPtr codec_named(std::string_view name, Isa isa = isa_in_use());

}  // namespace quoit
