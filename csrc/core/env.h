#pragma once
// The environment: the only place that reads it. Every variable is listed in docs/environment.md.
#include <optional>
#include <string>

namespace quoit::env {

// The variable's value, or nothing when it is unset or empty.
std::optional<std::string> read(const char* name);

// The variable as a number; throws UsageError when it is set to anything else.
std::optional<double> read_number(const char* name);

}  // namespace quoit::env
