#pragma once
// The errors of Quoit. Each maps to one Python exception; each message says what was asked, what
// was found and what to do. Destructors and progress loops never throw.
#include <exception>
#include <sstream>
#include <stdexcept>
#include <string>

namespace quoit {

// Root of all: something went wrong in the runtime.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The caller asked for something that has no meaning (ValueError in Python).
class UsageError : public Error {
 public:
  using Error::Error;
};

// A peer or a link failed (ConnectionError in Python).
class TransportError : public Error {
 public:
  using Error::Error;
};

// A deadline passed (TimeoutError in Python).
class TimeoutError : public Error {
 public:
  using Error::Error;
};

// A part that this build, machine or job does not have (RuntimeError in Python).
class UnavailableError : public Error {
 public:
  using Error::Error;
};

// Joins anything streamable into one string.
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// What an error says.
std::string message_of(const std::exception_ptr& error);

// The same error, of the same kind, with words in front; what is none of ours becomes a
// TransportError.
std::exception_ptr prefixed(const std::string& prefix, const std::exception_ptr& error);

// The same error, said by a rank ("rank 3 on node7"), unless it says already whose it is.
std::exception_ptr said_by(const std::string& rank, const std::exception_ptr& error);

}  // namespace quoit

// QUOIT_CHECK(count > 0, UsageError, "count is ", count): throws the error when the condition
// fails.
#define QUOIT_CHECK(condition, ErrorType, ...)              \
  do {                                                      \
    if (!(condition)) [[unlikely]]                          \
      throw ::quoit::ErrorType(::quoit::text(__VA_ARGS__)); \
  } while (false)
