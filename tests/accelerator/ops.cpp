// The operators of the test accelerator. Copies and in-place arithmetic run on the current stream;
// everything else waits for that stream and is computed by the CPU.

#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/Functions.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/NativeFunctions.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "streams.h"

namespace fake {
namespace {

constexpr auto kType = c10::DeviceType::PrivateUse1;
constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

c10::Device chosen(std::optional<c10::Device> device) {
  const int index = device && device->has_index() ? device->index() : current_device();
  return {kType, static_cast<c10::DeviceIndex>(index)};
}

Stream& stream_of(const at::Tensor& tensor) { return current_stream(tensor.device().index()); }

// The same elements as a tensor of the CPU, which keeps nothing alive.
at::Tensor host_view(const at::Tensor& tensor) {
  auto view = at::from_blob(const_cast<void*>(tensor.const_data_ptr()), tensor.sizes(),
                            tensor.strides(), tensor.options().device(c10::kCPU));
  view._set_conj(tensor.is_conj());
  view._set_neg(tensor.is_neg());
  return view;
}

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(chosen(device));
  return at::detail::empty_generic(size, c10::GetAllocator(kType), kKeys,
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(chosen(device));
  return at::detail::empty_strided_generic(size, stride, c10::GetAllocator(kType), kKeys,
                                           c10::dtype_or_default(dtype));
}

at::Tensor as_strided(const at::Tensor& self, at::IntArrayRef size, at::IntArrayRef stride,
                      std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

// torch's own of the CPU would allocate on the current device and copy at once.
void grow(const at::Tensor& self) {
  const size_t bytes = at::detail::computeStorageNbytes(self.sizes(), self.strides(),
                                                        self.itemsize(), self.storage_offset());
  if (self.numel() > 0 && bytes > self.storage().nbytes()) {
    at::native::resize_bytes_nocuda(self.storage(), bytes);
  }
}

const at::Tensor& resize(const at::Tensor& self, at::IntArrayRef size,
                         std::optional<at::MemoryFormat> format) {
  if (self.sizes() != size) {
    self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
    grow(self);
  }
  if (format) self.unsafeGetTensorImpl()->empty_tensor_restride(*format);
  return self;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage storage, int64_t offset, at::IntArrayRef size,
                        at::IntArrayRef stride) {
  at::native::checkSetStorage(self, std::move(storage), offset, size, stride);
  at::TensorImpl* impl = self.unsafeGetTensorImpl();
  if (stride.data() == nullptr) {
    impl->set_storage_offset(offset);
    impl->set_sizes_contiguous(size);
  } else {
    impl->set_sizes_and_strides(size, stride, offset);
  }
  grow(self);
  return self;
}

at::Tensor& set_to_nothing(at::Tensor& self) {
  const c10::DeviceGuard guard(self.device());
  c10::Storage storage(c10::Storage::use_byte_size_t(), 0, c10::GetAllocator(kType), true);
  return self.set_(storage, 0, {0}, {});
}

void record_stream(at::Tensor& self, at::Stream stream) {
  c10::impl::getDeviceGuardImpl(kType)->recordDataPtrOnStream(self.storage().data_ptr(), stream);
}

void move_bytes(const at::Tensor& from, const at::Tensor& to) {
  if (from.dtype() == to.dtype() && from.is_contiguous() && to.is_contiguous() &&
      from.is_conj() == to.is_conj() && from.is_neg() == to.is_neg()) {
    std::memcpy(to.mutable_data_ptr(), from.const_data_ptr(), to.nbytes());
    return;
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  to.copy_(from);
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  if (to.numel() == 0 || from.is_same(to)) return to;
  const at::Tensor source = host_view(from.expand_as(to)), target = host_view(to);
  const bool inside = from.is_privateuseone() && to.is_privateuseone();
  Stream& stream = stream_of(from.is_privateuseone() ? from : to);
  Stream& other = stream_of(to.is_privateuseone() ? to : from);
  std::shared_ptr<Pinned> pinned;
  if (!inside) pinned = find_pinned((from.is_cpu() ? from : to).const_data_ptr());
  if (!inside && !(non_blocking && pinned)) {
    stream.synchronize();
    move_bytes(source, target);
    return to;
  }
  // Between devices the stream of the source copies, after and before the work of the target's.
  if (&other != &stream) stream.wait_for(other.mark());
  stream.enqueue_late([source, target, pinned] { move_bytes(source, target); });
  if (&other != &stream) other.wait_for(stream.mark());
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  if (from.sizes() != to.sizes()) to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar local_scalar_dense(const at::Tensor& self) {
  stream_of(self).synchronize();
  return host_view(self).item();
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  for (int device = 0; device < kDevices; ++device) current_stream(device).synchronize();
  at::native::cpu_fallback(op, stack);
}

// Whether self op= other needs neither a check nor a conversion that the CPU would refuse later.
bool is_plain(const at::Tensor& self, const at::Tensor& other) {
  const bool near = other.device() == self.device() || (other.is_cpu() && other.dim() == 0);
  return near && c10::canCast(at::result_type(self, other), self.scalar_type()) &&
         at::is_expandable_to(other.sizes(), self.sizes()) &&
         at::get_overlap_status(self, other) != at::MemOverlapStatus::Partial;
}

// An operator that changes self, queued. What the CPU might refuse is done, or refused, at once.
void in_place(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const size_t count = op.schema().arguments().size();
  const auto arguments = torch::jit::last(*stack, count);
  const at::Tensor self = arguments[0].toTensor();
  const bool binary = count > 1 && arguments[1].isTensor();
  if (!self.is_privateuseone() || self.is_complex() ||
      at::has_internal_overlap(self) != at::MemOverlap::No ||
      (binary && !is_plain(self, arguments[1].toTensor()))) {
    return fallback(op, stack);
  }
  torch::jit::Stack host;
  for (const auto& argument : arguments) {
    if (!argument.isTensor()) {
      host.push_back(argument);
    } else if (const at::Tensor tensor = argument.toTensor(); tensor.is_privateuseone()) {
      host.push_back(host_view(tensor));
    } else {
      // A number in a tensor; the caller may change it before the stream comes to it.
      host.push_back(tensor.unsafeGetTensorImpl()->is_wrapped_number() ? tensor : tensor.clone());
    }
  }
  stream_of(self).enqueue_late([op, host]() mutable {
    const at::AutoDispatchBelowADInplaceOrView guard;
    op.callBoxed(host);
  });
  torch::jit::drop(*stack, count);
  stack->emplace_back(self);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", as_strided);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
  m.impl("resize_", resize);
  m.impl("set_", set_to_nothing);
  m.impl("set_.source_Tensor", at::native::set_tensor_);
  m.impl("set_.source_Storage",
         static_cast<at::Tensor& (*)(at::Tensor&, at::Storage)>(at::native::set_));
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("is_set_to", at::native::is_set_to);
  m.impl("record_stream", record_stream);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", local_scalar_dense);
  for (const char* name :
       {"fill_.Scalar", "zero_", "add_.Tensor", "sub_.Tensor", "mul_.Tensor", "div_.Tensor"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&in_place>());
  }
}

// A copy takes lazy conjugation and negation as they are; torch would resolve them by a copy.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

}  // namespace
}  // namespace fake
