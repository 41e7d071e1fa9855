// What the name of a TopK codec says.
#include <charconv>

#include "core/error.h"
#include "kernels/topk_format.h"

namespace quoit {
namespace {

// Takes a number and what must follow it off the front.
template <class Number>
bool take(std::string_view& name, Number& number, std::string_view then) {
  const auto end = std::from_chars(name.data(), name.data() + name.size(), number);
  if (end.ec != std::errc{}) return false;
  name.remove_prefix(static_cast<std::size_t>(end.ptr - name.data()));
  if (!name.starts_with(then)) return false;
  name.remove_prefix(then.size());
  return true;
}

}  // namespace

std::optional<TopKForm> topk_named(std::string_view name) {
  constexpr std::string_view kRatio = "topk(ratio=";
  std::string_view rest = name;
  double ratio = 0;
  int bits = 0;
  rest.remove_prefix(rest.starts_with(kRatio) ? kRatio.size() : rest.size());
  if (!take(rest, ratio, ", bits=") || !take(rest, bits, ")") || !rest.empty()) return std::nullopt;
  QUOIT_CHECK(ratio > 0 && ratio <= 0.25, UsageError, "TopK: ratio is ", ratio,
              ", but must be above 0 and at most 0.25: where so many count, Int4 loses less");
  QUOIT_CHECK(bits == 2 || bits == 4 || bits == 8, UsageError, "TopK: bits is ", bits,
              ", but must be 2, 4 or 8");
  return TopKForm{ratio, static_cast<std::size_t>(bits)};
}

}  // namespace quoit
