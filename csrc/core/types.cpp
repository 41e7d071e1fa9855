#include "core/types.h"

#include <array>

namespace quoit {
namespace {

struct DTypeFacts {
  std::string_view name;
  std::size_t size;
};

constexpr std::array<DTypeFacts, kDTypes> kDTypeFacts{{
    {"float64", 8},
    {"float32", 4},
    {"float16", 2},
    {"bfloat16", 2},
    {"float8", 1},
    {"int8", 1},
    {"int16", 2},
    {"int32", 4},
    {"int64", 8},
    {"uint8", 1},
    {"uint16", 2},
    {"uint32", 4},
    {"uint64", 8},
    {"bool", 1},
}};

constexpr std::array<std::string_view, kReduceOps> kReduceOpNames{
    "SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR", "PREMUL_SUM"};

}  // namespace

std::size_t size_of(DType dtype) { return kDTypeFacts[static_cast<std::size_t>(dtype)].size; }
std::string_view name_of(DType dtype) { return kDTypeFacts[static_cast<std::size_t>(dtype)].name; }
std::string_view name_of(ReduceOp op) { return kReduceOpNames[static_cast<std::size_t>(op)]; }

}  // namespace quoit
