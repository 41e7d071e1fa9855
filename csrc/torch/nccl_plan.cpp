// What one collective on NCCL is made of: contiguous memory, copies, calls.
#include "torch/nccl_group.h"
#include "torch/nccl_tensors.h"
#include "torch/tensors.h"

namespace quoit {
namespace {

template <class Item>
void append(std::vector<Item>& to, std::vector<Item>& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

at::Tensor NcclGroup::Plan::flat(const at::Tensor& tensor, bool reads, bool writes,
                                 const char* what) {
  QUOIT_CHECK(tensor.defined(), UsageError, what, " is not a tensor");
  QUOIT_CHECK(tensor.layout() == at::kStrided, UsageError, what,
              " is a sparse tensor, which this operation does not take: pass tensor.to_dense()");
  dtype_of(tensor);  // throws for what cannot be communicated
  use(tensor);
  if (tensor.is_contiguous()) return tensor;
  // What torch only keeps can only be copied as bytes.
  const at::Tensor given = only_moved(tensor)
                               ? tensor.view(tensor.element_size() == 1 ? at::kByte : at::kShort)
                               : tensor;
  at::Tensor made =
      reads ? given.contiguous() : at::empty_like(given, at::MemoryFormat::Contiguous);
  use(made);
  if (writes) copies_back.emplace_back([given, made] { given.copy_(made); });
  return made;
}

at::Tensor NcclGroup::Plan::input(const at::Tensor& tensor, const char* what) {
  return flat(tensor, true, false, what);
}
at::Tensor NcclGroup::Plan::output(const at::Tensor& tensor, const char* what) {
  return flat(tensor, false, true, what);
}
at::Tensor NcclGroup::Plan::in_place(const at::Tensor& tensor, const char* what) {
  return flat(tensor, true, true, what);
}

NcclGroup::Tensors NcclGroup::Plan::byte_inputs(const Tensors& list, int ranks, const char* what) {
  check_list(list, ranks, what);
  Tensors bytes;
  for (const at::Tensor& one : list) bytes.push_back(as_bytes(input(one, what)));
  return bytes;
}

NcclGroup::Tensors NcclGroup::Plan::byte_outputs(const Tensors& list, int ranks, const char* what) {
  check_list(list, ranks, what);
  Tensors bytes;
  for (const at::Tensor& one : list) bytes.push_back(as_bytes(output(one, what)));
  return bytes;
}

at::Tensor NcclGroup::Plan::room(const at::Tensor& like, std::int64_t bytes, bool zeroed) {
  use(at::empty({bytes}, like.options().dtype(at::kByte).requires_grad(false)));
  if (zeroed) uses.back().zero_();
  return uses.back();
}

void NcclGroup::Plan::join(Plan other) {
  if (issue.empty() && steps.empty()) {
    timeout = other.timeout;
    type = type == c10d::OpType::COALESCED ? type : other.type;
  }
  append(inputs, other.inputs);
  append(outputs, other.outputs);
  append(value, other.value);
  append(uses, other.uses);
  append(before, other.before);
  append(issue, other.issue);
  append(steps, other.steps);
  append(after, other.after);
  append(copies_back, other.copies_back);
  async = true;
  grouped = true;
}

}  // namespace quoit
