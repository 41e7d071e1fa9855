#include "torch/arena_allocator.h"

#include <c10/core/Allocator.h>

#include <cstring>

#include "engine/engine.h"

namespace quoit {
namespace {

class ArenaAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    using Memory = std::shared_ptr<std::byte>;
    auto memory = std::make_unique<Memory>(Engine::process().arena().allocate(bytes));
    std::byte* const data = memory->get();
    const auto free = [](void* held) { delete static_cast<Memory*>(held); };
    return {data, memory.release(), free, at::kCPU};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

}  // namespace

at::Tensor tensor_in_arena(std::int64_t size, at::TensorOptions options) {
  static ArenaAllocator allocator;  // resized storages ask it again
  const auto bytes = static_cast<std::int64_t>(options.dtype().itemsize()) * size;
  auto storage = c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), bytes,
                                                       &allocator, /*resizable=*/true);
  return at::empty({0}, options).set_(at::Storage(std::move(storage)), 0, {size}, {1});
}

}  // namespace quoit
