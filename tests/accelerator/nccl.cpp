// A library with the C interface of NCCL 2.19, for processes of one host and streams of the test
// accelerator; here, all but the operations. Simple, and as strict as NCCL: the work runs on the
// stream, a rank that is missing is waited for until an abort, and a non-blocking communicator is
// in progress at first.

#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <set>
#include <utility>

#include "nccl_comm.h"

namespace fakenccl {
namespace {

constexpr int kVersion = 22703;
constexpr auto kShort = std::chrono::milliseconds(5);

struct Unique {
  char internal[128];
};

// The beginning of ncclConfig_t.
struct Config {
  size_t size;
  unsigned magic;
  unsigned version;
  int blocking;
};

std::mutex table_mutex;  // of what follows
auto& calls = *new std::map<std::string, long>;
auto& comms = *new std::set<Comm*>;
auto& last_error = *new std::string;

thread_local int group_depth = 0;
thread_local std::vector<Operation> group;
thread_local std::vector<Comm*> group_comms;  // that are being set up

Result close_group() {
  Result result = kSuccess;
  for (Comm* comm : std::exchange(group_comms, {})) {
    if (comm->blocking) comm->helper.join();
    if (comm->blocking && comm->state != kSuccess) result = kSystemError;
    if (!comm->blocking && result == kSuccess) result = kInProgress;
  }
  std::vector<Operation> operations = std::exchange(group, {});
  std::set<Comm*> slow;
  for (const Operation& operation : operations) {
    Comm* comm = operation.comm;
    if (!comm->blocking && !comm->launched) slow.insert(comm);
  }
  if (slow.empty()) {
    launch(std::move(operations));
    return result;
  }
  // The first work of a non-blocking communicator connects ranks, and is only then on the stream.
  for (Comm* comm : slow) {
    comm->launched = true;
    comm->state = kInProgress;
  }
  Comm* first = *slow.begin();
  if (first->helper.joinable()) first->helper.join();
  first->helper = std::thread([slow, operations = std::move(operations)]() mutable {
    std::this_thread::sleep_for(kShort);
    launch(std::move(operations));
    for (Comm* comm : slow) {
      int begun = kInProgress;  // unless the work has failed by now
      comm->state.compare_exchange_strong(begun, kSuccess);
    }
  });
  return kInProgress;
}

Result begin(Comm** made, int size, const Unique& id, int rank, bool blocking) {
  if (size < 1 || rank < 0 || rank >= size) {
    return fail(kInvalidArgument, "rank " + std::to_string(rank) + " of " + std::to_string(size));
  }
  auto* comm = new Comm;
  comm->folder = id.internal;
  comm->rank = rank;
  comm->size = size;
  comm->blocking = blocking;
  {
    std::lock_guard lock(table_mutex);
    comms.insert(comm);
  }
  *made = comm;
  comm->helper = std::thread([comm] { comm->state = connect(*comm) ? kSuccess : kSystemError; });
  if (group_depth > 0) {
    group_comms.push_back(comm);
    return kSuccess;
  }
  if (!blocking) return kInProgress;
  comm->helper.join();
  return static_cast<Result>(comm->state.load());
}

bool drained(Comm& comm) {
  std::lock_guard lock(comm.mutex);
  return comm.queued == 0;
}

void close(Comm& comm) {
  comm.gone = true;
  if (comm.helper.joinable()) comm.helper.join();
  while (comm.state == kInProgress && !comm.aborted) std::this_thread::sleep_for(kShort);
  std::unique_lock lock(comm.mutex);
  const auto idle = [&] { return comm.aborted ? comm.running == 0 : comm.queued == 0; };
  while (!idle()) comm.changed.wait_for(lock, kShort);
  for (int socket : std::exchange(comm.sockets, {})) {
    if (socket >= 0) ::close(socket);
  }
}

}  // namespace

void called(const char* function) {
  std::lock_guard lock(table_mutex);
  ++calls[function];
}

Result fail(Result result, const std::string& error) {
  say(error);
  return result;
}

bool is_alive(Comm* comm) {
  std::lock_guard lock(table_mutex);
  return comms.contains(comm) && !comm->gone;
}

Result gone() { return fail(kInvalidArgument, "this is no communicator, or one that is gone"); }

Result check_ready(Comm* comm) {
  if (!is_alive(comm)) return gone();
  if (comm->aborted) return fail(kInvalidUsage, "this communicator was aborted");
  if (comm->state == kInProgress) {
    return fail(kInvalidArgument, "this communicator's last call is still in progress");
  }
  return static_cast<Result>(comm->state.load());
}

Result submit(Operation operation) {
  if (operation.stream == nullptr) return fail(kInvalidUsage, "fake NCCL: the stream is null");
  group.push_back(std::move(operation));
  return group_depth > 0 ? kSuccess : close_group();
}

void say(const std::string& error) {
  std::lock_guard lock(table_mutex);
  last_error = error;
}

}  // namespace fakenccl

using namespace fakenccl;

extern "C" {

// How often a function of this library was called in this process.
long fakenccl_calls(const char* name) {
  std::lock_guard lock(table_mutex);
  auto found = calls.find(name);
  return found == calls.end() ? 0 : found->second;
}

Result ncclGetVersion(int* version) {
  called(__func__);
  *version = kVersion;
  return kSuccess;
}

Result ncclGetUniqueId(Unique* id) {
  called(__func__);
  *id = {};
  std::strcpy(id->internal, "/tmp/fakenccl-XXXXXX");
  return ::mkdtemp(id->internal) ? kSuccess : fail(kSystemError, "mkdtemp failed in /tmp");
}

Result ncclCommInitRank(Comm** comm, int size, Unique id, int rank) {
  called(__func__);
  return begin(comm, size, id, rank, true);
}

Result ncclCommInitRankConfig(Comm** comm, int size, Unique id, int rank, const Config* config) {
  called(__func__);
  const bool blocking = config == nullptr || config->blocking != 0;  // undefined is blocking
  return begin(comm, size, id, rank, blocking);
}

Result ncclCommGetAsyncError(Comm* comm, Result* error) {
  called(__func__);
  if (!is_alive(comm)) return gone();
  *error = static_cast<Result>(comm->state.load());
  if (comm->finalizing) *error = drained(*comm) ? kSuccess : kInProgress;
  return kSuccess;
}

Result ncclCommFinalize(Comm* comm) {
  called(__func__);
  if (Result ready = check_ready(comm); ready != kSuccess) return ready;
  if (comm->finalizing.exchange(true)) return fail(kInvalidArgument, "finalized twice");
  if (!comm->blocking) return kInProgress;
  while (!drained(*comm) && !comm->aborted) std::this_thread::sleep_for(kShort);
  return kSuccess;
}

Result ncclCommDestroy(Comm* comm) {
  called(__func__);
  if (!is_alive(comm)) return gone();
  close(*comm);
  return kSuccess;
}

Result ncclCommAbort(Comm* comm) {
  called(__func__);
  if (!is_alive(comm)) return gone();
  comm->aborted = true;
  close(*comm);
  return kSuccess;
}

Result ncclCommCount(Comm* comm, int* size) {
  called(__func__);
  if (!is_alive(comm)) return gone();
  *size = comm->size;
  return kSuccess;
}

Result ncclCommUserRank(Comm* comm, int* rank) {
  called(__func__);
  if (!is_alive(comm)) return gone();
  *rank = comm->rank;
  return kSuccess;
}

const char* ncclGetErrorString(Result result) {
  called(__func__);
  static constexpr std::array<const char*, 8> kTexts{
      "no error",
      "unhandled cuda error",
      "unhandled system error",
      "internal error",
      "invalid argument",
      "invalid usage",
      "remote process exited or there was a network error",
      "NCCL operation in progress"};
  return result >= 0 && result <= kInProgress ? kTexts[static_cast<size_t>(result)]
                                              : "unknown result code";
}

const char* ncclGetLastError(Comm*) {
  called(__func__);
  thread_local std::string text;
  std::lock_guard lock(table_mutex);
  text = last_error;
  return text.c_str();
}

Result ncclGroupStart() {
  called(__func__);
  ++group_depth;
  return kSuccess;
}

Result ncclGroupEnd() {
  called(__func__);
  if (group_depth == 0) return fail(kInvalidUsage, "ncclGroupEnd without ncclGroupStart");
  return --group_depth > 0 ? kSuccess : close_group();
}
}
