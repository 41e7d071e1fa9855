#include "transport/nccl_library.h"

#include <dlfcn.h>

#include <utility>

#include "core/env.h"
#include "core/error.h"
#include "core/log.h"

namespace quoit {
namespace {

constexpr const char* kFile = "libnccl.so.2";

template <class Function>
void find(void* handle, const char* name, const std::string& path, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(handle, name));
  QUOIT_CHECK(function != nullptr, UnavailableError, "the NCCL library ", path, " lacks ", name,
              ": NCCL 2.19 or later is needed. Install a newer one (pip install nvidia-nccl-cu12), "
              "or name one with QUOIT_NCCL");
}

std::string file_of(void* handle, const std::string& asked) {
  Dl_info where{};
  void* entry = dlsym(handle, "ncclGetVersion");
  return entry != nullptr && dladdr(entry, &where) != 0 ? where.dli_fname : asked;
}

NcclCalls calls_of(void* handle, const std::string& path) {
  NcclCalls calls{};
  const auto all = [&]<class... Pairs>(Pairs... pairs) {
    (find(handle, pairs.first, path, *pairs.second), ...);
  };
  all(std::pair("ncclGetVersion", &calls.get_version),
      std::pair("ncclGetUniqueId", &calls.get_unique_id),
      std::pair("ncclCommInitRankConfig", &calls.comm_init_rank_config),
      std::pair("ncclCommGetAsyncError", &calls.comm_get_async_error),
      std::pair("ncclCommFinalize", &calls.comm_finalize),
      std::pair("ncclCommDestroy", &calls.comm_destroy),
      std::pair("ncclCommAbort", &calls.comm_abort),
      std::pair("ncclGetErrorString", &calls.get_error_string),
      std::pair("ncclGetLastError", &calls.get_last_error),
      std::pair("ncclGroupStart", &calls.group_start), std::pair("ncclGroupEnd", &calls.group_end),
      std::pair("ncclAllReduce", &calls.all_reduce), std::pair("ncclReduce", &calls.reduce),
      std::pair("ncclBroadcast", &calls.broadcast), std::pair("ncclAllGather", &calls.all_gather),
      std::pair("ncclReduceScatter", &calls.reduce_scatter), std::pair("ncclSend", &calls.send),
      std::pair("ncclRecv", &calls.recv),
      std::pair("ncclRedOpCreatePreMulSum", &calls.red_op_create_pre_mul_sum),
      std::pair("ncclRedOpDestroy", &calls.red_op_destroy));
  return calls;
}

// What was tried, and why it was not the one.
class Search {
 public:
  void* open(const std::string& path, int flags = 0) {
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | flags);
    if (handle != nullptr || flags != 0) return handle;
    // NOLINTNEXTLINE(concurrency-mt-unsafe): each thread has its own
    const char* why = dlerror();
    if (!tried_.empty()) tried_ += "; ";
    tried_ += path + ": " + (why != nullptr ? why : "?");
    return nullptr;
  }

  void* find(const std::vector<std::string>& candidates) {
    if (const auto asked = env::read("QUOIT_NCCL")) {
      void* handle = open(*asked);
      QUOIT_CHECK(handle != nullptr, UnavailableError,
                  "cannot load the NCCL library that QUOIT_NCCL names (", tried_,
                  "): set it to the path of a libnccl.so.2, or unset it");
      return handle;
    }
    if (void* handle = open(kFile, RTLD_NOLOAD)) return handle;
    for (const std::string& path : candidates)
      if (void* handle = open(path)) return handle;
    void* handle = open(kFile);
    QUOIT_CHECK(handle != nullptr, UnavailableError, "no NCCL library can be loaded (", tried_,
                "): install one (pip install nvidia-nccl-cu12), or set QUOIT_NCCL to the path of a "
                "libnccl.so.2");
    return handle;
  }

 private:
  std::string tried_;
};

NcclLibrary open_library(const std::vector<std::string>& candidates) {
  void* handle = Search().find(candidates);
  NcclLibrary library{};
  library.path = file_of(handle, kFile);
  library.calls = calls_of(handle, library.path);
  library.check(library.calls.get_version(&library.version), "ncclGetVersion", nullptr);
  QUOIT_CHECK(library.version >= kOldestNccl, UnavailableError, "the NCCL library ", library.path,
              " is version ", library.version_text(),
              ", and 2.19 or later is needed: install a newer one (pip install nvidia-nccl-cu12), "
              "or name one with QUOIT_NCCL");
  if (log::debug()) log::write(text("NCCL ", library.version_text(), " from ", library.path));
  return library;
}

}  // namespace

const NcclLibrary& NcclLibrary::load(const std::vector<std::string>& candidates) {
  // Never destroyed: communicators may outlive all static objects.
  static const auto* const library = new NcclLibrary(open_library(candidates));
  return *library;
}

std::string NcclLibrary::version_text() const {
  return version < 10000 ? text(version / 1000, ".", version / 100 % 10, ".", version % 100)
                         : text(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

void NcclLibrary::check(NcclResult result, const char* what, NcclComm comm) const {
  if (result == kNcclSuccess || result == kNcclInProgress) return;
  const char* last = calls.get_last_error(comm);
  const std::string more = last != nullptr && *last != 0 ? text(" (", last, ")") : "";
  throw TransportError(text(what, ": ", calls.get_error_string(result), more,
                            ". NCCL_DEBUG=WARN makes NCCL say more"));
}

}  // namespace quoit
