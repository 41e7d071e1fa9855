#pragma once
// What a rank does to one low-rank part in one call, apart from how factors travel.
#include "compress/tiles.h"

namespace quoit {

// Throws UsageError where rank, sizes or memory of a low-rank part do not fit.
void check_low_rank(const Part& part);

// One exchange, or two: begin, multiply each stripe, give, have it summed over the ranks, take.
// Then restore each stripe, and end. Stripes are runs of rows that take a fraction of a
// millisecond.
class Factoring {
 public:
  // How many floats a factor has at most, and how many factors are sent.
  static std::size_t floats(const LowRank& matrix);
  static int exchanges(const LowRank& matrix);

  // `data`: the part's elements; `memory`: room for so many factors.
  static constexpr std::size_t kFactors = 3;
  Factoring(const Part& part, View data, const Terms& terms, float* memory);

  [[nodiscard]] int exchanges() const { return exchanges(matrix_); }
  [[nodiscard]] std::size_t stripes() const;

  void begin(int exchange);
  void multiply(std::size_t stripe);
  // Writes this rank's factor to `sum`, already scaled, for all ranks' to be added up there. It
  // stays there until the end, or the next exchange.
  [[nodiscard]] View give(float* sum);
  void take();
  [[nodiscard]] const Codec& codec() const { return *codec_; }

  void restore(std::size_t stripe);
  void end();

 private:
  struct Stripe {
    std::size_t row;
    View data;
    Source p;
  };

  [[nodiscard]] const CodecKernels& kernels() const { return codec_->kernels(); }
  [[nodiscard]] bool sends_rows() const;  // M Q, rather than M^T P
  [[nodiscard]] Factor down(float* at) const;
  [[nodiscard]] Factor across(float* at) const;
  [[nodiscard]] std::size_t stripe_rows() const;
  [[nodiscard]] Stripe stripe(std::size_t index);
  void multiply_down(const Stripe& stripe);

  const LowRank& matrix_;
  const Codec* codec_;
  View data_;
  float* residual_;
  Terms terms_;
  float* own_;            // this rank's part of the factor that travels
  float* basis_;          // the other factor, orthonormal
  float* band_;           // of M^T P: what the current band of rows gives
  float* sum_ = nullptr;  // of the factor that travels
  int exchange_ = 0;
  bool finite_ = false;      // the sum
  std::vector<float> wide_;  // a stripe of 16-bit numbers
};

}  // namespace quoit
