// In place of isa_x86_v*.cpp, codecs_x86_v*.cpp and cpu_x86.cpp on other architectures.
#include "kernels/codec_kernels.h"

namespace quoit {

const KernelTable* x86_v3_kernels() { return nullptr; }
const KernelTable* x86_v4_kernels() { return nullptr; }
const CodecKernels* x86_v3_codec_kernels() { return nullptr; }
const CodecKernels* x86_v4_codec_kernels() { return nullptr; }
bool cpu_has_x86_v3() { return false; }
bool cpu_has_x86_v4() { return false; }

}  // namespace quoit
