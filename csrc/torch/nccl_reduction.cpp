#include "torch/nccl_reduction.h"

#include <cstring>
#include <optional>

#include "kernels/reduce.h"
#include "torch/tensors.h"

namespace quoit {
namespace {

using TorchOp = c10d::ReduceOp;

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
std::optional<NcclOp> nccl_op(TorchOp::RedOpType op, bool of_bools) {
  switch (op) {
    case TorchOp::SUM:
      return of_bools ? kNcclMax : kNcclSum;
    case TorchOp::PRODUCT:
      return of_bools ? kNcclMin : kNcclProd;
    case TorchOp::MIN:
      return kNcclMin;
    case TorchOp::MAX:
      return kNcclMax;
    case TorchOp::AVG:
      return kNcclAvg;
    case TorchOp::PREMUL_SUM:
      return kNcclSum;
    case TorchOp::BAND:
      return of_bools ? std::optional(kNcclMin) : std::nullopt;
    case TorchOp::BOR:
      return of_bools ? std::optional(kNcclMax) : std::nullopt;
    default:
      return std::nullopt;
  }
}

ReduceOp our_op(const TorchOp& op) {
  switch (op.op_) {
    case TorchOp::SUM:
      return ReduceOp::Sum;
    case TorchOp::AVG:
      return ReduceOp::Avg;
    case TorchOp::PRODUCT:
      return ReduceOp::Product;
    case TorchOp::MIN:
      return ReduceOp::Min;
    case TorchOp::MAX:
      return ReduceOp::Max;
    case TorchOp::BAND:
      return ReduceOp::Band;
    case TorchOp::BOR:
      return ReduceOp::Bor;
    case TorchOp::BXOR:
      return ReduceOp::Bxor;
    case TorchOp::PREMUL_SUM:
      return ReduceOp::PremulSum;
    default:
      throw UsageError("this reduce op is not known to quoit");
  }
}

// Throws for what has no meaning, on the CPU neither.
DType check_meaning(const TorchOp& op, const at::Tensor& tensor) {
  QUOIT_CHECK(!tensor.is_complex() || c10d::isComplexViewAsRealAllowed(op), UsageError,
              "this reduce op has no meaning for complex tensors: use SUM, AVG or PREMUL_SUM");
  QUOIT_CHECK(!only_moved(tensor), UsageError, "tensors of dtype ",
              c10::toString(tensor.scalar_type()), " are moved but never reduced");
  const DType dtype = dtype_of(tensor);
  check_reducible(dtype, our_op(op));
  return dtype;
}

double factor_of(const TorchOp& op) {
  const auto* given = dynamic_cast<const c10d::PreMulSumSupplement*>(op.supplement_.get());
  QUOIT_CHECK(given != nullptr, UsageError, "PREMUL_SUM without its factor");
  return given->tensor_factor.defined() ? given->tensor_factor.item<double>()
                                        : given->double_factor;
}

template <class T>
std::array<std::byte, 8> bytes_of_factor(T factor) {
  std::array<std::byte, 8> bytes{};
  std::memcpy(bytes.data(), &factor, sizeof factor);
  return bytes;
}

}  // namespace

std::string nccl_lacks(const c10d::ReduceOp& op, const at::Tensor& tensor) {
  const DType dtype = check_meaning(op, tensor);
  if (!nccl_type(dtype)) return text("NCCL does not reduce ", name_of(dtype));
  if (!nccl_op(op.op_, dtype == DType::Bool)) return text("NCCL has no ", name_of(our_op(op)));
  if (op.op_ == TorchOp::AVG && (dtype == DType::UInt32 || dtype == DType::UInt64))
    return text("torch does not divide ", name_of(dtype), " on devices, which AVG needs");
  return {};
}

NcclReduction nccl_reduction(const c10d::ReduceOp& op, const at::Tensor& tensor) {
  const std::string lacks = nccl_lacks(op, tensor);
  QUOIT_CHECK(lacks.empty(), UsageError, lacks,
              ": reduce a copy in host memory (tensor.cpu()), convert to another dtype, or set "
              "QUOIT_NCCL=off, and it goes through host memory by itself");
  const DType dtype = dtype_of(tensor);
  NcclReduction reduction{*nccl_type(dtype), *nccl_op(op.op_, dtype == DType::Bool)};
  if (op.op_ == TorchOp::PREMUL_SUM) {
    reduction.premultiplied = true;
    reduction.factor = factor_of(op);
  }
  if (op.op_ == TorchOp::AVG && c10::isIntegralType(tensor.scalar_type(), false)) {
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
