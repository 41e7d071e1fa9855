#pragma once
// Checks of a test that goes on after a failure, and tells at the end how many there were.
#include <cstdio>
#include <string>

#include "core/error.h"

namespace quoit::test {

inline int failures = 0;

inline void fail(const std::string& what) {
  if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

// EXPECT(condition, parts of a message...): the message is put together only when it is needed.
#define EXPECT(condition, ...)                                         \
  do {                                                                 \
    if (!(condition)) ::quoit::test::fail(::quoit::text(__VA_ARGS__)); \
  } while (false)

// What main returns.
inline int verdict() {
  std::printf("%s: %d failures\n", failures == 0 ? "ok" : "FAILED", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace quoit::test
