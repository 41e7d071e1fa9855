#include "torch/nccl_reduction.h"

#include <cstring>
#include <optional>

#include "kernels/reduce.h"
#include "torch/reduction.h"
#include "torch/tensors.h"

namespace quoit {
namespace {

std::optional<NcclType> nccl_type(DType dtype) {
  switch (dtype) {
    case DType::Float64:
      return NcclType::Float64;
    case DType::Float32:
      return NcclType::Float32;
    case DType::Float16:
      return NcclType::Float16;
    case DType::BFloat16:
      return NcclType::BFloat16;
    case DType::Int8:
      return NcclType::Int8;
    case DType::Int32:
      return NcclType::Int32;
    case DType::Int64:
      return NcclType::Int64;
    case DType::UInt8:
    case DType::Bool:
      return NcclType::UInt8;
    case DType::UInt32:
      return NcclType::UInt32;
    case DType::UInt64:
      return NcclType::UInt64;
    default:
      return std::nullopt;
  }
}

// As on the CPU, a bool is true or false: SUM and MAX are OR, PRODUCT and MIN are AND.
std::optional<NcclOp> nccl_op(ReduceOp op, bool of_bools) {
  switch (op) {
    case ReduceOp::Sum:
      return of_bools ? kNcclMax : kNcclSum;
    case ReduceOp::Product:
      return of_bools ? kNcclMin : kNcclProd;
    case ReduceOp::Min:
      return kNcclMin;
    case ReduceOp::Max:
      return kNcclMax;
    case ReduceOp::Avg:
      return kNcclAvg;
    case ReduceOp::PremulSum:
      return kNcclSum;
    case ReduceOp::Band:
      return of_bools ? std::optional(kNcclMin) : std::nullopt;
    case ReduceOp::Bor:
      return of_bools ? std::optional(kNcclMax) : std::nullopt;
    default:
      return std::nullopt;
  }
}

template <class T>
std::array<std::byte, 8> bytes_of_factor(T factor) {
  std::array<std::byte, 8> bytes{};
  std::memcpy(bytes.data(), &factor, sizeof factor);
  return bytes;
}

}  // namespace

std::string nccl_lacks(const c10d::ReduceOp& op, const at::Tensor& tensor) {
  const ReduceOp ours = op_of(op, tensor);
  const DType dtype = dtype_of(tensor);
  check_reducible(dtype, ours);
  if (!nccl_type(dtype)) return text("NCCL does not reduce ", name_of(dtype));
  if (!nccl_op(ours, dtype == DType::Bool)) return text("NCCL has no ", name_of(ours));
  if (ours == ReduceOp::Avg && (dtype == DType::UInt32 || dtype == DType::UInt64))
    return text("torch does not divide ", name_of(dtype), " on devices, which AVG needs");
  return {};
}

NcclReduction nccl_reduction(const c10d::ReduceOp& op, const at::Tensor& tensor) {
  const std::string lacks = nccl_lacks(op, tensor);
  QUOIT_CHECK(lacks.empty(), UsageError, lacks,
              ": reduce a copy in host memory (tensor.cpu()), convert to another dtype, or set "
              "QUOIT_NCCL=off, and it goes through host memory by itself");
  const DType dtype = dtype_of(tensor);
  const Reduction ours = reduction_of(op, tensor);
  NcclReduction reduction{*nccl_type(dtype), *nccl_op(ours.op, dtype == DType::Bool)};
  reduction.premultiplied = ours.op == ReduceOp::PremulSum;
  reduction.factor = ours.factor;
  if (ours.op == ReduceOp::Avg && c10::isIntegralType(tensor.scalar_type(), false)) {
    reduction.op = kNcclSum;
    reduction.divide = true;
  }
  return reduction;
}

std::size_t nccl_count(const at::Tensor& tensor) {
  return static_cast<std::size_t>(tensor.numel()) * (tensor.is_complex() ? 2 : 1);
}

std::array<std::byte, 8> nccl_factor(const NcclReduction& reduction) {
  switch (reduction.type) {
    case NcclType::Float64:
      return bytes_of_factor(reduction.factor);
    case NcclType::Float16:
      return bytes_of_factor(c10::Half(static_cast<float>(reduction.factor)));
    case NcclType::BFloat16:
      return bytes_of_factor(c10::BFloat16(static_cast<float>(reduction.factor)));
    default:
      return bytes_of_factor(static_cast<float>(reduction.factor));
  }
}

}  // namespace quoit
