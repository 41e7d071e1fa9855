// Eight bits a number, a float8 (e4m3) in blocks of 128 with a scale in bfloat16.
#include "compress/blocks.h"

quoit::CodecPtr quoit::make_fp8(const CodecKernels& kernels) {
  return std::make_shared<BlockCodec>("fp8", kFp8Layout, kernels.fp8, kernels);
}
