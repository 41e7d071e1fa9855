// Built with the compiler's default instruction set: runs on every CPU of the architecture.
#include "kernels/lanes_plain.h"

#include "kernels/codec_loops.h"

const quoit::CodecKernels* quoit::baseline_codec_kernels() { return &kCodecKernels; }
