// Asks CPUID itself: not every compiler's __builtin_cpu_supports knows the x86-64 levels.
#include <cpuid.h>

#include "kernels/kernel_table.h"

namespace quoit {
namespace {

constexpr unsigned kV3Leaf1Ecx = bit_SSE3 | bit_SSSE3 | bit_FMA | bit_CMPXCHG16B | bit_SSE4_1 |
                                 bit_SSE4_2 | bit_MOVBE | bit_POPCNT | bit_OSXSAVE | bit_AVX |
                                 bit_F16C;
constexpr unsigned kV3Leaf7Ebx = bit_BMI | bit_AVX2 | bit_BMI2;
constexpr unsigned kV3ExtendedEcx = bit_LAHF_LM | bit_LZCNT;
constexpr unsigned kV4Leaf7Ebx =
    bit_AVX512F | bit_AVX512DQ | bit_AVX512CD | bit_AVX512BW | bit_AVX512VL;

// Register state that the operating system saves: SSE and AVX; AVX-512 masks and both upper halves.
constexpr unsigned kAvxState = 0x06;
constexpr unsigned kAvx512State = 0xe0;

struct Features {
  unsigned leaf1_ecx = 0;
  unsigned leaf7_ebx = 0;
  unsigned extended_ecx = 0;
  unsigned saved_state = 0;
};

Features features() {
  Features found;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx)) found.leaf1_ecx = ecx;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) found.leaf7_ebx = ebx;
  if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx)) found.extended_ecx = ecx;
  if (found.leaf1_ecx & bit_OSXSAVE) {
    __asm__("xgetbv" : "=a"(found.saved_state), "=d"(edx) : "c"(0));
  }
  return found;
}

bool has_all(unsigned found, unsigned wanted) { return (found & wanted) == wanted; }

}  // namespace

bool cpu_has_x86_v3() {
  const Features found = features();
  return has_all(found.leaf1_ecx, kV3Leaf1Ecx) && has_all(found.leaf7_ebx, kV3Leaf7Ebx) &&
         has_all(found.extended_ecx, kV3ExtendedEcx) && has_all(found.saved_state, kAvxState);
}

bool cpu_has_x86_v4() {
  const Features found = features();
  return cpu_has_x86_v3() && has_all(found.leaf7_ebx, kV4Leaf7Ebx) &&
         has_all(found.saved_state, kAvx512State);
}

}  // namespace quoit
