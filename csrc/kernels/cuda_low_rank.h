#pragma once
// Low-rank factors on CUDA devices: twins of low_rank_kernels.h, of make_orthonormal()
// (compress/low_rank.h) and of what compress/factoring.cpp does with a sum, with the same bits. As
// all of cuda.h they are put on a stream, and neither allocate nor wait: what a sum is like decides
// on the device. Factors lie at multiples of 16 bytes, and what pads their columns is zero.
#include "kernels/cuda_args.h"
#include "kernels/low_rank_kernels.h"

namespace quoit::cuda {

struct KernelSet;

// What a rank gives: data * before + residual * unit.
struct LowRankMatrix {
  std::byte* data = nullptr;  // float32, bfloat16 or float16; `rows` rows of `cols`
  float* residual = nullptr;  // null: nothing was lost, and nothing is kept
  std::size_t rows = 0;
  std::size_t cols = 0;
  DType dtype = DType::Float32;
  float before = 1;
  float unit = 1;
};

// What a sum of factors is like: two bits in the first number, and room to find out.
struct Judged {
  static constexpr std::uint32_t kNotFinite = 1;  // anything
  static constexpr std::uint32_t kNotZero = 2;
  static constexpr unsigned kParts = 64;
  std::uint32_t at[1 + kParts];
};

struct ProductArgs {
  LowRankMatrix m;
  Factor by;
  Factor into;
  float* scratch;
};

struct RestoreArgs {
  LowRankMatrix m;
  FactorPair given;
  FactorPair sum;
  const Judged* judged;
  float per_unit;
};

struct BasisArgs {
  Factor a;
  std::size_t rows;
  std::uint64_t key;
  double shift;      // of the Gram matrix
  double* parts;     // of it, by kGramRows rows
  double* triangle;  // see LowRankKernels::solve
  double* columns;   // of `a`, as they are solved
};

struct SumArgs {
  Factor sum;
  Judged* judged;
  float* kept;  // columns of `length`, one behind the other
  std::size_t length;
};

struct LowRankLaunches {
  void (*times)(const ProductArgs&, const Launch&);
  void (*transposed_times)(const ProductArgs&, const Launch&);
  void (*restore)(const RestoreArgs&, const Launch&);
  void (*orthonormal)(const BasisArgs&, const Launch&);
  void (*judge)(const SumArgs&, const Launch&);
  void (*keep)(const SumArgs&, const Launch&);
};

// Bytes, at a multiple of 16, that either product, or a basis, needs while it is made.
std::size_t product_scratch(std::size_t rows, std::size_t cols, std::size_t rank);
std::size_t basis_scratch(std::size_t rows, std::size_t rank);

// into = m * right; into = m^T * left. The matrix is read once for every eight columns of a factor.
void low_rank_times(const KernelSet& set, const LowRankMatrix& m, const Factor& right,
                    const Factor& into, std::byte* scratch, const Launch& launch);
void low_rank_transposed_times(const KernelSet& set, const LowRankMatrix& m, const Factor& left,
                               const Factor& into, std::byte* scratch, const Launch& launch);

void make_orthonormal(const KernelSet& set, const Factor& a, std::size_t rows, std::uint64_t key,
                      std::byte* scratch, const Launch& launch);

// Finds out what the sum over ranks is like.
void judge_sum(const KernelSet& set, const Factor& sum, Judged* judged, const Launch& launch);

// The data becomes the sum, and the residual what `given` lost; where the sum is not finite, the
// residual stays.
void low_rank_restore(const KernelSet& set, const LowRankMatrix& m, const FactorPair& given,
                      const FactorPair& sum, const Judged* judged, const Launch& launch);

// `kept`, columns of `length`, becomes the sum, if that is finite and not zero.
void keep_sum(const KernelSet& set, const Factor& sum, const Judged* judged, float* kept,
              std::size_t length, const Launch& launch);

}  // namespace quoit::cuda
