#include "torch/reduction.h"

#include "torch/tensors.h"

namespace quoit {

// Complex numbers travel as pairs, which only sums may treat one by one.
ReduceOp op_of(const c10d::ReduceOp& op, const at::Tensor& tensor) {
  QUOIT_CHECK(!tensor.is_complex() || c10d::isComplexViewAsRealAllowed(op), UsageError,
              "this reduce op has no meaning for complex tensors: use SUM, AVG or PREMUL_SUM");
  QUOIT_CHECK(!only_moved(tensor), UsageError, "tensors of dtype ",
              c10::toString(tensor.scalar_type()), " are moved but never reduced");
  switch (op.op_) {
    case c10d::ReduceOp::SUM:
      return ReduceOp::Sum;
    case c10d::ReduceOp::AVG:
      return ReduceOp::Avg;
    case c10d::ReduceOp::PRODUCT:
      return ReduceOp::Product;
    case c10d::ReduceOp::MIN:
      return ReduceOp::Min;
    case c10d::ReduceOp::MAX:
      return ReduceOp::Max;
    case c10d::ReduceOp::BAND:
      return ReduceOp::Band;
    case c10d::ReduceOp::BOR:
      return ReduceOp::Bor;
    case c10d::ReduceOp::BXOR:
      return ReduceOp::Bxor;
    case c10d::ReduceOp::PREMUL_SUM:
      return ReduceOp::PremulSum;
    default:
      throw UsageError("this reduce op is not known to quoit");
  }
}

Reduction reduction_of(const c10d::ReduceOp& op, const at::Tensor& tensor) {
  const ReduceOp ours = op_of(op, tensor);
  if (ours != ReduceOp::PremulSum) return {ours};
  const auto* factor = dynamic_cast<const c10d::PreMulSumSupplement*>(op.supplement_.get());
  QUOIT_CHECK(factor != nullptr, UsageError, "PREMUL_SUM without its factor");
  return {ours, factor->tensor_factor.defined() ? factor->tensor_factor.item<double>()
                                                : factor->double_factor};
}

}  // namespace quoit
