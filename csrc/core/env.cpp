#include "core/env.h"

#include <charconv>
#include <cstdlib>

#include "core/error.h"

namespace quoit::env {

std::optional<std::string> read(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

std::optional<double> read_number(const char* name) {
  const std::optional<std::string> value = read(name);
  if (!value) return std::nullopt;
  double number = 0;
  const char* end = value->data() + value->size();
  const auto [stop, failure] = std::from_chars(value->data(), end, number);
  QUOIT_CHECK(failure == std::errc{} && stop == end, UsageError, name, "=", *value,
              " in the environment is not a number: set it to one or unset it");
  return number;
}

}  // namespace quoit::env
