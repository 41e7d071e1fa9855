#include "torch/tensors.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace quoit {
namespace {

struct Element {
  DType dtype;
  std::size_t each;  // elements of ours in one of torch's: 2 for complex numbers
};

Element element_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return {DType::Float64, 1};
    case at::kFloat:
      return {DType::Float32, 1};
    case at::kHalf:
      return {DType::Float16, 1};
    case at::kBFloat16:
      return {DType::BFloat16, 1};
    case at::kFloat8_e4m3fn:
    case at::kFloat8_e4m3fnuz:
    case at::kFloat8_e5m2:
    case at::kFloat8_e5m2fnuz:
    case at::kFloat8_e8m0fnu:
      return {DType::Float8, 1};
    case at::kChar:
      return {DType::Int8, 1};
    case at::kShort:
      return {DType::Int16, 1};
    case at::kInt:
      return {DType::Int32, 1};
    case at::kLong:
      return {DType::Int64, 1};
    case at::kByte:
      return {DType::UInt8, 1};
    case at::kUInt16:
      return {DType::UInt16, 1};
    case at::kUInt32:
      return {DType::UInt32, 1};
    case at::kUInt64:
      return {DType::UInt64, 1};
    case at::kBool:
      return {DType::Bool, 1};
    case at::kComplexFloat:
      return {DType::Float32, 2};
    case at::kComplexDouble:
      return {DType::Float64, 2};
    case at::kComplexHalf:
      return {DType::Float16, 2};
    default:
      QUOIT_CHECK(!c10::isQIntType(tensor.scalar_type()), UsageError, "tensors of dtype ",
                  c10::toString(tensor.scalar_type()),
                  " cannot be communicated: convert to another dtype first");
      return {DType::Float8, tensor.element_size()};
  }
}

// float4, int1 to int7, bits: bytes that torch, too, only keeps, and mostly cannot even copy.
at::Tensor copyable(const at::Tensor& tensor) {
  if (!only_moved(tensor)) return tensor;
  return tensor.view(tensor.element_size() == 1 ? at::kByte : at::kShort);
}

std::vector<View> cut(View all, std::size_t parts, const char* what) {
  QUOIT_CHECK(all.count % parts == 0, UsageError, what, " has ", all.count, " elements, which ",
              parts, " ranks cannot share equally");
  std::vector<View> views;
  views.reserve(parts);
  for (std::size_t i = 0; i < parts; ++i)
    views.push_back(all.at(Slice{0, all.count}.piece(parts, i)));
  return views;
}

std::vector<View> cut(View all, const at::Tensor& tensor, const std::vector<int64_t>& splits,
                      std::size_t parts, const char* what) {
  const std::size_t rows = rows_in(tensor);
  const std::size_t each = rows == 0 ? 0 : all.count / rows;
  std::vector<View> views;
  views.reserve(parts);
  for (const Slice& part : split_rows(tensor, splits, parts, what))
    views.push_back(all.at({part.begin * each, part.count * each}));
  return views;
}

}  // namespace

DType dtype_of(const at::Tensor& tensor) { return element_of(tensor).dtype; }

bool only_moved(const at::Tensor& tensor) {
  return dtype_of(tensor) == DType::Float8 && !c10::isFloat8Type(tensor.scalar_type());
}

std::size_t rows_in(const at::Tensor& tensor) {
  return tensor.dim() == 0 ? 1 : static_cast<std::size_t>(tensor.size(0));
}

std::vector<Slice> split_rows(const at::Tensor& tensor, const std::vector<int64_t>& splits,
                              std::size_t parts, const char* what) {
  const std::size_t rows = rows_in(tensor);
  std::vector<Slice> slices;
  slices.reserve(parts);
  if (splits.empty()) {
    QUOIT_CHECK(rows % parts == 0, UsageError, what, " has ", rows, " rows, which ", parts,
                " ranks cannot share equally: give split sizes");
    for (std::size_t i = 0; i < parts; ++i) slices.push_back(Slice{0, rows}.piece(parts, i));
    return slices;
  }
  QUOIT_CHECK(splits.size() == parts, UsageError, what, ": got ", splits.size(),
              " split sizes for ", parts, " ranks");
  std::size_t sum = 0;
  for (const int64_t split : splits) {
    QUOIT_CHECK(split >= 0, UsageError, what, ": split size ", split, " is negative");
    slices.push_back({sum, static_cast<std::size_t>(split)});
    sum += slices.back().count;
  }
  QUOIT_CHECK(sum == rows, UsageError, what, " has ", rows, " rows, but its split sizes add up to ",
              sum);
  return slices;
}

std::vector<std::vector<at::Tensor>> by_input(const std::vector<std::vector<at::Tensor>>& by_rank,
                                              std::size_t inputs, int ranks) {
  QUOIT_CHECK(by_rank.size() == static_cast<std::size_t>(ranks), UsageError,
              "all_gather_coalesced: got ", by_rank.size(), " lists of outputs; give one for ",
              "each of the ", ranks, " ranks");
  std::vector<std::vector<at::Tensor>> lists(inputs);
  for (const auto& list : by_rank) {
    QUOIT_CHECK(list.size() == inputs, UsageError, "all_gather_coalesced: got ", inputs,
                " inputs, and a list of ", list.size(), " outputs: give one output for each input");
    for (std::size_t i = 0; i < inputs; ++i) lists[i].push_back(list[i]);
  }
  return lists;
}

View Operands::view(const at::Tensor& tensor, bool reads, bool writes, const char* what) {
  QUOIT_CHECK(tensor.defined(), UsageError, what, " is not a tensor");
  QUOIT_CHECK(tensor.layout() == at::kStrided, UsageError, what,
              " is a sparse tensor, which this operation does not take: pass tensor.to_dense()");
  const bool staged = !tensor.device().is_cpu();
  QUOIT_CHECK(tensors_.empty() || staged == (staging_ != nullptr), UsageError, what, " is on ",
              tensor.device().str(), ", another tensor of the same call on ",
              tensors_.front().device().str(), ": move one of them with .to()");
  if (staged) after(tensor.device(), what);
  const Element element = element_of(tensor);
  at::Tensor flat = tensor;
  if (!tensor.is_contiguous()) {
    const at::Tensor given = copyable(tensor);
    flat = reads ? given.contiguous() : at::empty_like(given, at::MemoryFormat::Contiguous);
    if (writes && staged) staging_->copy_back(given, flat);
    if (writes && !staged) copies_back_.emplace_back(given, flat);
  }
  tensors_.push_back(flat);
  if (staged) staging_->add(flat);
  return {static_cast<std::byte*>(flat.data_ptr()),
          static_cast<std::size_t>(flat.numel()) * element.each, element.dtype};
}

void Operands::after(c10::Device device, const char* what) {
  QUOIT_CHECK(!device.is_meta() && c10::impl::hasDeviceGuardImpl(device.type()), UsageError, what,
              " is on ", device.str(), ", whose memory quoit cannot reach: move it with .cpu()");
  if (!device.has_index()) device = c10::impl::VirtualGuardImpl(device.type()).getDevice();
  QUOIT_CHECK(staging_ == nullptr || staging_->device() == device, UsageError, what, " is on ",
              device.str(), ", another tensor of the same call on ", staging_->device().str(),
              ": move one of them with .to()");
  if (!staging_) staging_ = std::make_shared<DeviceStaging>(device);
}

View Operands::input(const at::Tensor& tensor, const char* what) {
  return view(tensor, true, false, what);
}
View Operands::output(const at::Tensor& tensor, const char* what) {
  return view(tensor, false, true, what);
}
View Operands::in_place(const at::Tensor& tensor, const char* what) {
  return view(tensor, true, true, what);
}

std::vector<View> Operands::inputs(const std::vector<at::Tensor>& tensors, const char* what) {
  std::vector<View> views;
  views.reserve(tensors.size());
  for (const at::Tensor& tensor : tensors) views.push_back(input(tensor, what));
  return views;
}

std::vector<View> Operands::outputs(const std::vector<at::Tensor>& tensors, const char* what) {
  std::vector<View> views;
  views.reserve(tensors.size());
  for (const at::Tensor& tensor : tensors) views.push_back(output(tensor, what));
  return views;
}

std::vector<View> Operands::input_parts(const at::Tensor& tensor, std::size_t parts,
                                        const char* what) {
  return cut(input(tensor, what), parts, what);
}

std::vector<View> Operands::output_parts(const at::Tensor& tensor, std::size_t parts,
                                         const char* what) {
  return cut(output(tensor, what), parts, what);
}

std::vector<View> Operands::input_splits(const at::Tensor& tensor,
                                         const std::vector<int64_t>& splits, std::size_t parts,
                                         const char* what) {
  return cut(input(tensor, what), tensor, splits, parts, what);
}

std::vector<View> Operands::output_splits(const at::Tensor& tensor,
                                          const std::vector<int64_t>& splits, std::size_t parts,
                                          const char* what) {
  return cut(output(tensor, what), tensor, splits, parts, what);
}

std::function<void()> Operands::epilogue() const {
  if (copies_back_.empty()) return {};
  return [copies = copies_back_] {
    const at::NoGradGuard no_grad;
    for (const auto& [to, from] : copies) to.copy_(from);
  };
}

}  // namespace quoit
