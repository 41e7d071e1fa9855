#include "torch/key_store.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <thread>

#include "engine/engine.h"
#include "torch/work.h"

namespace quoit {

template <class Ask>
auto KeyStore::asking(Ask ask) -> decltype(ask()) {
  std::string why;
  try {
    return ask();
  } catch (...) {
    why = words_of(std::current_exception());
  }
  throw TransportError(text(who_, "the store that the ranks meet in failed: ", why,
                            ". Is the process that holds it, rank 0 or the launcher, alive and "
                            "within reach?"));
}

KeyStore KeyStore::of_next_group(const std::string& name, int size) {
  const std::int64_t arrival = add(name + "/arrivals", 1);
  const std::string prefix = text(name, "/", (arrival - 1) / size);
  return KeyStore(c10::make_intrusive<c10d::PrefixStore>(prefix, store_), who_);
}

void KeyStore::set(const std::string& key, const std::string& value) {
  asking([&] { store_->set(key, std::vector<std::uint8_t>(value.begin(), value.end())); });
}

std::string KeyStore::get(const std::string& key) {
  const std::vector<std::uint8_t> value = asking([&] { return store_->get(key); });
  return {value.begin(), value.end()};
}

bool KeyStore::has(const std::string& key) {
  return asking([&] { return store_->check({key}); });
}

std::int64_t KeyStore::add(const std::string& key, std::int64_t amount) {
  return asking([&] { return store_->add(key, amount); });
}

std::optional<std::string> KeyStore::await(const std::string& key,
                                           const std::function<bool()>& stop) {
  for (Seconds pause(1e-4); !has(key); pause = std::min(pause * 1.5, Seconds(0.02))) {
    if (stop()) return std::nullopt;
    Engine::process().heed_interrupt();
    std::this_thread::sleep_for(pause);
  }
  return get(key);
}

}  // namespace quoit
