// Sixteen bits a number, each by itself; stochastic: rounded at random, so that the mean is right.
#include "compress/blocks.h"

quoit::CodecPtr quoit::make_bf16(const CodecKernels& kernels) {
  return std::make_shared<BlockCodec>("bf16", kBf16Layout, kernels.bf16, kernels);
}

quoit::CodecPtr quoit::make_bf16_stochastic(const CodecKernels& kernels) {
  return std::make_shared<BlockCodec>("bf16(stochastic)", kBf16Layout, kernels.bf16_stochastic,
                                      kernels);
}
