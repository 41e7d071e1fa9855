#pragma once
// Copies of plain memory.
#include <cstddef>

namespace quoit {

// memcpy, but free of its worst case: on AMD Zen 3 and 4 glibc copies more than 2 KiB by
// `rep movsb`, which runs at a fraction of its speed when the destination lies less than 64 bytes
// behind the source modulo 4096 (glibc bug 30994). A slot begins on a page, and arrays of NumPy 16
// bytes into one. `from` may be `to`; otherwise they may not overlap.
void copy_bytes(const std::byte* from, std::byte* to, std::size_t bytes);

// The same with non-temporal stores, where the CPU has them: the lines of `to` go to memory without
// being fetched first, and are in no cache afterwards. Ordered before what this thread writes next.
void stream_bytes(const std::byte* from, std::byte* to, std::size_t bytes);

// Copies that are part of moving a large amount: stores go past the caches when these could not
// hold it anyway, and so fetch nothing first.
class BulkCopy {
 public:
  // footprint: bytes that are read and written in all, by all cores that share a cache.
  explicit BulkCopy(std::size_t footprint);

  void operator()(const std::byte* from, std::byte* to, std::size_t bytes) const {
    if (streams_)
      stream_bytes(from, to, bytes);
    else
      copy_bytes(from, to, bytes);
  }

 private:
  bool streams_;
};

}  // namespace quoit
