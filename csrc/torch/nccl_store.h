#pragma once
// The keys through which the ranks of one NCCL group meet and tell of failures.
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <functional>
#include <string>

#include "core/clock.h"
#include "core/error.h"

namespace quoit {

// Never waits inside the store: it serves one thread at a time. Throws TransportError when the
// store fails.
class NcclStore {
 public:
  // One access. Of several groups that meet in one store, one after another, each gets keys of its
  // own; all `size` ranks must come to each.
  NcclStore(const c10::intrusive_ptr<c10d::Store>& store, int size);

  void set(const std::string& key, const std::string& value);
  std::string get(const std::string& key);
  bool has(const std::string& key);
  std::int64_t add(const std::string& key, std::int64_t amount);

  // The value, once there is one; nothing when `stop` says so, which is asked all the time.
  std::optional<std::string> await(const std::string& key, const std::function<bool()>& stop);

 private:
  template <class Ask>
  auto asking(Ask ask) -> decltype(ask());

  c10::intrusive_ptr<c10d::Store> store_;
};

}  // namespace quoit
