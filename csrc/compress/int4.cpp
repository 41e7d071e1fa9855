// Four bits a number: blocks of 64 with the scale and the zero point of their range; or, after a
// Hadamard transform, blocks of 128 with a scale.
#include "compress/blocks.h"

quoit::CodecPtr quoit::make_int4(const CodecKernels& kernels) {
  return std::make_shared<BlockCodec>("int4", kInt4Layout, kernels.int4, kernels);
}

quoit::CodecPtr quoit::make_int4_hadamard(const CodecKernels& kernels) {
  return std::make_shared<BlockCodec>("int4(hadamard)", kInt4HadamardLayout, kernels.int4_hadamard,
                                      kernels);
}
