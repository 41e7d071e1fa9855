// Built with -march=x86-64-v4 (AVX-512): called only where cpu_has_x86_v4().
#include "kernels/lanes_avx2.h"

#include "kernels/codec_loops.h"

const quoit::CodecKernels* quoit::x86_v4_codec_kernels() { return &kCodecKernels; }
