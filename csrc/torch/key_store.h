#pragma once
// torch's store, in which ranks meet, as quoit asks it.
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <functional>
#include <optional>
#include <string>

#include "core/clock.h"
#include "core/error.h"

namespace quoit {

// Never waits inside the store, which serves one thread at a time. Where the store fails, throws
// TransportError, which begins with `who`: its own errors do not say who asked, nor what to do.
class KeyStore {
 public:
  explicit KeyStore(c10::intrusive_ptr<c10d::Store> store, std::string who = "")
      : store_(std::move(store)), who_(std::move(who)) {}

  void set(const std::string& key, const std::string& value);
  std::string get(const std::string& key);
  bool has(const std::string& key);
  std::int64_t add(const std::string& key, std::int64_t amount);

  // The value, once there is one; nothing when `stop` says so, which is asked all the time.
  std::optional<std::string> await(const std::string& key, const std::function<bool()>& stop);

  // Of several groups of `size` ranks that meet in one store, one after another, each gets keys of
  // its own, which begin with `name`; all its ranks must come to each. One access.
  KeyStore of_next_group(const std::string& name, int size);

 private:
  template <class Ask>
  auto asking(Ask ask) -> decltype(ask());

  c10::intrusive_ptr<c10d::Store> store_;
  std::string who_;
};

}  // namespace quoit
