#include "core/error.h"

namespace quoit {

std::string message_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "unknown error";
  }
}

std::exception_ptr prefixed(const std::string& prefix, const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const UsageError& e) {
    return std::make_exception_ptr(UsageError(prefix + e.what()));
  } catch (const TimeoutError& e) {
    return std::make_exception_ptr(TimeoutError(prefix + e.what()));
  } catch (const UnavailableError& e) {
    return std::make_exception_ptr(UnavailableError(prefix + e.what()));
  } catch (const std::exception& e) {
    return std::make_exception_ptr(TransportError(prefix + e.what()));
  }
}

std::exception_ptr said_by(const std::string& rank, const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    const bool said = std::string(e.what()).rfind("[quoit ", 0) == 0;
    return said ? error : prefixed(text("[quoit ", rank, "] "), error);
  }
}

}  // namespace quoit
