#include "core/copy.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "core/types.h"

namespace quoit {

#if defined(__SSE2__)
namespace {

constexpr std::size_t kShort = 1024;  // memcpy is fine up to here, whatever its threshold

// The bytes before the first whole line at `to`.
std::size_t head_of(const std::byte* to) {
  return (0 - reinterpret_cast<std::uintptr_t>(to)) % kCacheLine;
}

// Whole lines; `to` is aligned. Returns how many bytes that were.
template <bool kStream>
std::size_t copy_lines(const std::byte* from, std::byte* to, std::size_t bytes) {
  std::size_t done = 0;
  for (; done + kCacheLine <= bytes; done += kCacheLine) {
    const auto* source = reinterpret_cast<const __m128i*>(from + done);
    auto* target = reinterpret_cast<__m128i*>(to + done);
    const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1),
                  c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
    if constexpr (kStream) {
      _mm_stream_si128(target, a), _mm_stream_si128(target + 1, b);
      _mm_stream_si128(target + 2, c), _mm_stream_si128(target + 3, d);
    } else {
      _mm_store_si128(target, a), _mm_store_si128(target + 1, b);
      _mm_store_si128(target + 2, c), _mm_store_si128(target + 3, d);
    }
  }
  return done;
}

template <bool kStream>
void copy_long(const std::byte* from, std::byte* to, std::size_t bytes) {
  const std::size_t head = head_of(to);
  std::memcpy(to, from, head);
  const std::size_t body = head + copy_lines<kStream>(from + head, to + head, bytes - head);
  std::memcpy(to + body, from + body, bytes - body);
}

}  // namespace

void copy_bytes(const std::byte* from, std::byte* to, std::size_t bytes) {
  if (bytes == 0 || from == to) return;
  if (bytes <= kShort)
    std::memcpy(to, from, bytes);
  else
    copy_long<false>(from, to, bytes);
}

void stream_bytes(const std::byte* from, std::byte* to, std::size_t bytes) {
  if (bytes <= kShort || from == to) return copy_bytes(from, to, bytes);
  copy_long<true>(from, to, bytes);
  _mm_sfence();  // such stores are not ordered with the flag that is published next
}

#else

void copy_bytes(const std::byte* from, std::byte* to, std::size_t bytes) {
  if (bytes > 0 && from != to) std::memcpy(to, from, bytes);
}

void stream_bytes(const std::byte* from, std::byte* to, std::size_t bytes) {
  copy_bytes(from, to, bytes);
}

#endif

namespace {

std::size_t last_level_cache() {
  static const std::size_t bytes = [] {
    const long said = ::sysconf(_SC_LEVEL3_CACHE_SIZE);  // 0 or -1 where the CPU does not tell
    return said > 0 ? static_cast<std::size_t>(said) : std::size_t{32} << 20;
  }();
  return bytes;
}

}  // namespace

BulkCopy::BulkCopy(std::size_t footprint) : streams_(footprint > last_level_cache()) {}

}  // namespace quoit
