// Built with -march=x86-64-v3 (AVX2): called only where cpu_has_x86_v3().
#include "kernels/lanes_avx2.h"

#include "kernels/codec_loops.h"

const quoit::CodecKernels* quoit::x86_v3_codec_kernels() { return &kCodecKernels; }
