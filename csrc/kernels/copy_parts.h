#pragma once
// What a thread does in a copy of many small pieces, and in a cast. Include device_cuda.h (or the
// tests' device_plain.h) first.
#include "kernels/row_codec.h"

namespace quoit {
namespace {

template <class T>
QUOIT_DEVICE void copy_as(const std::byte* from, std::byte* to, std::size_t bytes, unsigned thread,
                          unsigned threads) {
  for (std::size_t i = thread; i < bytes / sizeof(T); i += threads)
    reinterpret_cast<T*>(to)[i] = reinterpret_cast<const T*>(from)[i];
  const std::size_t done = bytes / sizeof(T) * sizeof(T);
  for (std::size_t i = done + thread; i < bytes; i += threads) to[i] = from[i];
}

// A chunk of one of the copies.
QUOIT_DEVICE inline void copy_chunk(const cuda::CopyArgs& args, unsigned chunk, unsigned thread,
                                    unsigned threads) {
  const unsigned c = thing_of(args.ends, args.copy_count, chunk);
  const cuda::Copy& copy = args.copies[c];
  const std::size_t begin = (chunk - (c > 0 ? args.ends[c - 1] : 0)) * cuda::kCopyChunk;
  const std::size_t left = copy.bytes - begin;
  const std::size_t bytes = left < cuda::kCopyChunk ? left : cuda::kCopyChunk;
  const std::byte* const from = copy.from + begin;
  std::byte* const to = copy.to + begin;
  if (is_aligned(from, 16) && is_aligned(to, 16)) {
    copy_as<Pack<std::uint32_t, 4>>(from, to, bytes, thread, threads);
  } else if (is_aligned(from, 4) && is_aligned(to, 4)) {
    copy_as<Element<std::uint32_t>>(from, to, bytes, thread, threads);
  } else {
    copy_as<std::byte>(from, to, bytes, thread, threads);
  }
}

// Four numbers at a time, where both lie at a multiple of what four of them take.
template <class From, class To>
QUOIT_DEVICE void cast_part(const std::byte* in, std::byte* out, std::size_t count,
                            std::size_t thread, std::size_t threads) {
  using Input = typename From::Stored;
  using Output = typename To::Stored;
  const auto* const from = reinterpret_cast<const Element<Input>*>(in);
  auto* const to = reinterpret_cast<Element<Output>*>(out);
  const bool packed = is_aligned(in, 4 * sizeof(Input)) && is_aligned(out, 4 * sizeof(Output));
  const std::size_t packs = packed ? count / 4 : 0;
  for (std::size_t i = thread; i < packs; i += threads) {
    const auto four = *reinterpret_cast<const Pack<Input, 4>*>(from + 4 * i);
    Pack<Output, 4> result;
    QUOIT_UNROLL
    for (unsigned k = 0; k < 4; ++k) result.at[k] = To::narrow(From::widen(four.at[k]));
    *reinterpret_cast<Pack<Output, 4>*>(to + 4 * i) = result;
  }
  for (std::size_t i = 4 * packs + thread; i < count; i += threads)
    to[i].at[0] = To::narrow(From::widen(from[i].at[0]));
}

}  // namespace
}  // namespace quoit
