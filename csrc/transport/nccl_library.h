#pragma once
// libnccl, loaded at run time.
#include <string>
#include <vector>

#include "transport/nccl_abi.h"

namespace quoit {

struct NcclLibrary {
  NcclCalls calls;
  std::string path;
  int version;  // as nccl_version()

  // The one of this process, loaded at the first call that finds one: what QUOIT_NCCL names; else
  // what is loaded already (torch brings it); else the first of `candidates`, which are paths, that
  // can be loaded; else what the linker finds. Throws UnavailableError, which says what was tried.
  static const NcclLibrary& load(const std::vector<std::string>& candidates);

  [[nodiscard]] std::string version_text() const;

  // Throws TransportError, in NCCL's own words, unless `result` is success or "in progress".
  void check(NcclResult result, const char* what, NcclComm comm) const;
};

}  // namespace quoit
