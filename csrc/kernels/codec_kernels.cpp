#include "kernels/codec_kernels.h"

namespace quoit {

const CodecKernels& codec_kernels(Isa isa) {
  QUOIT_CHECK(isa_available(isa), UnavailableError, "codecs for ", name_of(isa),
              " asked for, but this build or CPU has none: the best one here is ",
              name_of(isa_in_use()));
  switch (isa) {
    case Isa::X86V3:
      return *x86_v3_codec_kernels();
    case Isa::X86V4:
      return *x86_v4_codec_kernels();
    default:
      return *baseline_codec_kernels();
  }
}

}  // namespace quoit
