#pragma once
// What a rank does to one low-rank part in one call on a CUDA device: factoring.h's twin, with the
// same bits. All is put into a stream and returns at once; whether a sum is finite is found out,
// and heeded, on the device.
#include "compress/tiles.h"
#include "kernels/cuda.h"

namespace quoit {

class DeviceFactoring {
 public:
  // Bytes of its own, zeroed; and, at a multiple of 16, of scratch that those which follow each
  // other in the stream may share.
  static std::size_t room(const LowRank& matrix);
  static std::size_t scratch(const LowRank& matrix);

  // `part`, `data` and `zeroed` lie on the device, but for the part's turn, which is read now.
  DeviceFactoring(const Part& part, View data, const Terms& terms, std::byte* zeroed);

  [[nodiscard]] int exchanges() const { return exchanges_; }

  // The factor that travels in this exchange; scaled already.
  [[nodiscard]] View sent(int exchange) const;
  [[nodiscard]] const Codec& codec() const { return *codec_; }

  // Writes this rank's to it, for all ranks' to be added up there.
  void give(int exchange, std::byte* scratch, const cuda::KernelSet& set,
            const cuda::Launch& launch) const;

  // After the last exchange: the data becomes the sum, the residual what was lost of it, and the
  // sum is kept as a basis. Where it is not finite, residual and bases stay as they were.
  void restore(const cuda::KernelSet& set, const cuda::Launch& launch) const;

 private:
  // Those of one exchange.
  struct Factors {
    float* own;
    float* basis;
    float* sum;
  };

  [[nodiscard]] bool sends_rows(int exchange) const;  // M Q, rather than M^T P
  [[nodiscard]] Factors at(int exchange) const;
  [[nodiscard]] Factor down(float* at) const;
  [[nodiscard]] Factor across(float* at) const;
  [[nodiscard]] cuda::LowRankMatrix matrix() const;

  const LowRank matrix_;
  const Codec* codec_;
  View data_;
  float* residual_;
  Terms terms_;
  std::uint64_t turn_;
  int exchanges_;
  std::byte* memory_;
};

}  // namespace quoit
