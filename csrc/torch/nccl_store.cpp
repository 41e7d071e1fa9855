#include "torch/nccl_store.h"

#include <thread>

#include "engine/engine.h"

namespace quoit {

template <class Ask>
auto NcclStore::asking(Ask ask) -> decltype(ask()) {
  std::string why;
  try {
    return ask();
  } catch (const c10::Error& e) {
    why = e.what_without_backtrace();
  } catch (const std::exception& e) {
    why = e.what();
  }
  throw TransportError(text("the store that the ranks meet in failed: ", why,
                            ". Is the process that holds it, rank 0 or the launcher, alive and "
                            "within reach?"));
}

NcclStore::NcclStore(const c10::intrusive_ptr<c10d::Store>& store, int size) : store_(store) {
  const std::int64_t arrival = add("quoit/nccl/arrivals", 1);
  store_ = c10::make_intrusive<c10d::PrefixStore>(text("quoit/nccl/", (arrival - 1) / size), store);
}

void NcclStore::set(const std::string& key, const std::string& value) {
  asking([&] { store_->set(key, std::vector<std::uint8_t>(value.begin(), value.end())); });
}

std::string NcclStore::get(const std::string& key) {
  const std::vector<std::uint8_t> value = asking([&] { return store_->get(key); });
  return {value.begin(), value.end()};
}

bool NcclStore::has(const std::string& key) {
  return asking([&] { return store_->check({key}); });
}

std::int64_t NcclStore::add(const std::string& key, std::int64_t amount) {
  return asking([&] { return store_->add(key, amount); });
}

std::optional<std::string> NcclStore::await(const std::string& key,
                                            const std::function<bool()>& stop) {
  for (Seconds pause(1e-4); !has(key); pause = std::min(pause * 1.5, Seconds(0.02))) {
    if (stop()) return std::nullopt;
    Engine::process().heed_interrupt();
    std::this_thread::sleep_for(pause);
  }
  return get(key);
}

}  // namespace quoit
