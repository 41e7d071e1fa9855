#include "core/log.h"

#include <unistd.h>

#include "core/env.h"
#include "core/error.h"

namespace quoit::log {

bool debug() {
  static const bool wanted = [] {
    const std::string level = env::read("QUOIT_LOG").value_or("off");
    QUOIT_CHECK(level == "off" || level == "debug", UsageError, "QUOIT_LOG=", level,
                " in the environment is not known: choose off or debug");
    return level == "debug";
  }();
  return wanted;
}

void write(const std::string& line) {
  const std::string whole = line + "\n";
  // Nobody can be told that stderr is gone.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, whole.data(), whole.size());
}

}  // namespace quoit::log
