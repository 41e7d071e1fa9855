// Eight bits a number, blocks of 128 with a scale in bfloat16: the default.
#include "compress/blocks.h"

quoit::CodecPtr quoit::make_int8(const CodecKernels& kernels) {
  return std::make_shared<BlockCodec>("int8", kInt8Layout, kernels.int8, kernels);
}
