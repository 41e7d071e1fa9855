// torch's device type PrivateUse1 as the test accelerator: allocator, streams and events, hooks.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "streams.h"

namespace {

using fake::kDevices;
constexpr auto kType = c10::DeviceType::PrivateUse1;

int index_of(c10::Device device) {
  const int index = device.has_index() ? device.index() : fake::current_device();
  TORCH_CHECK(index < kDevices, "fake: asked for device ", index, " of ", kDevices);
  return index;
}

fake::Stream& native(const c10::Stream& stream) {
  TORCH_CHECK(stream.device_type() == kType, "fake: this is a stream of ", stream.device());
  return fake::stream(stream.device_index(), stream.id());
}

c10::Stream wrapped(const fake::Stream& stream) {
  const c10::Device device(kType, static_cast<c10::DeviceIndex>(stream.device));
  return c10::Stream(c10::Stream::UNSAFE, device, stream.id);
}

void release(void* block) { fake::release(static_cast<fake::Block*>(block)); }

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const int device = fake::current_device();
    const c10::Device where(kType, static_cast<c10::DeviceIndex>(device));
    if (bytes == 0) return {nullptr, nullptr, &release_nothing, where};
    fake::Block* block = fake::allocate(fake::current_stream(device), bytes);
    return {block->data, block, &release, where};
  }
  // None: a DataPtr's context is not its data.
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void*, const void*, size_t) const override {
    TORCH_CHECK(false, "fake: device memory is copied by copy_ only");
  }
  static void release_nothing(void*) {}
};

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes == 0 ? nullptr : fake::allocate_pinned(bytes);
    return {data, data, &fake::release_pinned, c10::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &fake::release_pinned; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

DeviceAllocator device_allocator;
PinnedAllocator pinned_allocator;
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &device_allocator)

struct Event {
  std::shared_ptr<fake::Mark> mark;
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }

  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override {
    return {kType, static_cast<c10::DeviceIndex>(fake::current_device())};
  }
  void setDevice(c10::Device device) const override { fake::current_device() = index_of(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) fake::current_device() = device.index();
  }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  c10::DeviceCapability getDeviceCapability(c10::Device) const override { return {}; }
  void synchronizeDevice(c10::DeviceIndex device) const override {
    fake::synchronize_device(index_of({kType, device}));
  }

  c10::Stream getStream(c10::Device device) const override {
    return wrapped(fake::current_stream(index_of(device)));
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return wrapped(fake::stream(index_of(device), 0));
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return wrapped(fake::pool_stream(index_of(device)));
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    return wrapped(fake::new_stream(index_of(device)));
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const c10::Stream before = getStream(stream.device());
    fake::set_current_stream(native(stream));
    return before;
  }
  void* getStreamNativeHandle(const c10::Stream stream) const override { return &native(stream); }
  bool queryStream(const c10::Stream& stream) const override { return native(stream).idle(); }
  void synchronizeStream(const c10::Stream& stream) const override { native(stream).synchronize(); }
  bool isStreamCapturing(const c10::Stream&) const override { return fake_is_capturing() != 0; }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex device,
              const c10::EventFlag) const override {
    TORCH_CHECK(device == -1 || device == stream.device_index(), "fake: an event of device ",
                static_cast<int>(device), " cannot be recorded on a stream of ", stream.device());
    if (*event == nullptr) *event = new Event;
    static_cast<Event*>(*event)->mark = native(stream).mark();
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (auto mark = mark_of(event)) native(stream).wait_for(std::move(mark));
  }
  bool queryEvent(void* event) const override {
    auto mark = mark_of(event);
    return !mark || mark->reached();
  }
  void synchronizeEvent(void* event) const override {
    if (auto mark = mark_of(event)) mark->wait();
  }
  double elapsedTime(void* begin, void* end, const c10::DeviceIndex) const override {
    auto first = mark_of(begin), last = mark_of(end);
    TORCH_CHECK(first && last, "fake: both events must be recorded before a time is between them");
    TORCH_CHECK(first->reached() && last->reached(), "fake: both events must have been reached");
    return std::chrono::duration<double, std::milli>(last->when() - first->when()).count();
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<Event*>(event);
  }

  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& stream) const override {
    if (data.get_deleter() != &release) return;
    fake::note_user(*static_cast<fake::Block*>(data.get_context()), native(stream));
  }

 private:
  static std::shared_ptr<fake::Mark> mark_of(void* event) {
    return event == nullptr ? nullptr : static_cast<Event*>(event)->mark;
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  void setCurrentDevice(c10::DeviceIndex device) const override {
    fake::current_device() = index_of({kType, device});
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return static_cast<c10::DeviceIndex>(fake::current_device());
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override {
    const c10::DeviceIndex before = getCurrentDevice();
    setCurrentDevice(device);
    return before;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override {
    return device < 0 ? getCurrentDevice() : exchangeDevice(device);
  }

  bool isPinnedPtr(const void* data) const override { return fake::find_pinned(data) != nullptr; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }

  // What is random is drawn on the CPU.
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::detail::createCPUGenerator();
  }

  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    const int device = index_of(storage.device());
    const int before = std::exchange(fake::current_device(), device);
    c10::DataPtr fresh = device_allocator.allocate(bytes);
    fake::current_device() = before;
    if (const size_t kept = std::min(bytes, storage.nbytes()); kept > 0) {
      fake::Stream& stream = fake::current_stream(device);
      fake::note_user(*static_cast<fake::Block*>(storage.data_ptr().get_context()), stream);
      stream.enqueue([to = fresh.get(), from = storage.data_ptr().get(), kept] {
        std::memcpy(to, from, kept);
      });
    }
    storage.set_data_ptr_noswap(std::move(fresh));
    storage.set_nbytes(bytes);
  }
};

// Leaked: torch asks it until the very end.
const bool hooked = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  return true;
}();

}  // namespace
