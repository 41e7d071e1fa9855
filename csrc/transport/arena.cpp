#include "transport/arena.h"

#include <unistd.h>

#include <algorithm>
#include <bit>

#include "core/error.h"
#include "core/types.h"

namespace quoit {
namespace {

constexpr std::size_t kFree = 16;      // regions kept for the next allocation
constexpr std::size_t kWindows = 128;  // mappings of others' regions

// Up to an eighth more than asked for, so that sizes which differ a little share their regions.
std::size_t rounded(std::size_t bytes) {
  const std::size_t step = std::max(Arena::kAlignment, std::bit_floor(bytes) / 8);
  return std::max<std::size_t>(1, ceil_div(bytes, step)) * step;
}

}  // namespace

std::shared_ptr<std::byte> Arena::allocate(std::size_t bytes) {
  const std::size_t size = rounded(bytes);
  const std::lock_guard lock(state_->mutex);
  Region region{};
  const auto fits = std::find_if(state_->free.begin(), state_->free.end(),
                                 [size](const Region& r) { return r.memory->size() == size; });
  if (fits != state_->free.end()) {
    region = *fits;
    state_->free.erase(fits);
  } else {
    region = {SharedMemory::create(size, "quoit-tensor"), ++state_->serials};
  }
  std::byte* const data = region.memory->data();
  state_->used.emplace(data, std::move(region));
  return {data, [state = state_](std::byte* freed) {
            Region dropped{};  // unmapped after the lock is gone
            const std::lock_guard free_lock(state->mutex);
            const auto found = state->used.find(freed);
            state->free.push_front(std::move(found->second));
            state->used.erase(found);
            if (state->free.size() <= kFree) return;
            dropped = std::move(state->free.back());
            state->free.pop_back();
          }};
}

Place Arena::place_of(const std::byte* data, std::size_t bytes) const {
  const std::lock_guard lock(state_->mutex);
  auto after = state_->used.upper_bound(data);
  if (after == state_->used.begin()) return {};
  const auto& [begin, region] = *--after;
  const auto offset = static_cast<std::size_t>(data - begin);
  if (offset + bytes > region.memory->size()) return {};
  return {::getpid(), region.memory->descriptor(), region.serial, region.memory->size(), offset};
}

const std::byte* Arena::window(const Place& place) {
  const std::lock_guard lock(state_->mutex);
  auto& windows = state_->windows;
  const auto known = std::find_if(windows.begin(), windows.end(), [&place](const Window& w) {
    return w.pid == place.pid && w.fd == place.fd && w.serial == place.serial;
  });
  if (known != windows.end()) {
    windows.splice(windows.begin(), windows, known);
  } else {
    const std::string name = text(place.pid, " ", place.fd, " ", place.size);
    windows.push_front({place.pid, place.fd, place.serial, SharedMemory::open(name)});
    if (windows.size() > kWindows) windows.pop_back();
  }
  return windows.front().memory->data() + place.offset;
}

}  // namespace quoit
