#pragma once
// A communicator of the fake NCCL: a socket to each other rank, and the work that is queued on it.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace fakenccl {

enum Result {
  kSuccess,
  kUnhandledCudaError,
  kSystemError,
  kInternalError,
  kInvalidArgument,
  kInvalidUsage,
  kRemoteError,
  kInProgress,
};

struct ScaleOp {
  const void* device = nullptr;  // read when the work runs; null: immediate
  alignas(8) char immediate[8] = {};
};

// Never deleted, so that a call with one that is gone is an error and no crash.
struct Comm {
  std::string folder;
  int rank = 0;
  int size = 0;
  bool blocking = true;

  std::vector<int> sockets;  // by rank; -1 for its own
  std::thread helper;        // sets up, or launches, what a non-blocking call began
  std::atomic<bool> gone{false};
  std::atomic<bool> aborted{false};
  std::atomic<int> state{kInProgress};
  std::atomic<bool> finalizing{false};
  bool launched = false;

  std::mutex mutex;
  std::condition_variable changed;
  uint64_t tickets = 0;  // given to work, in the order in which it must run
  uint64_t turn = 0;     // of the work that may run
  int queued = 0;
  int running = 0;
  std::map<int, ScaleOp> scales;
};

// Meets the other ranks in the folder. False: aborted. Deletes what it made there.
bool connect(Comm& comm);

struct Transfer {
  Comm* comm;
  int peer;
  bool out;
  char* data;
  size_t bytes;
};

struct Operation {
  Comm* comm;
  void* stream;
  bool collective;
  std::vector<Transfer> transfers{};
  std::function<void()> prepare{};  // before the transfers
  std::function<void()> finish{};   // once all transfers of the group are done
};

// Queues the operations of one group on their streams: those of one communicator or one stream
// run together, and all their transfers make progress at once.
void launch(std::vector<Operation> group);

// One operation, at once or with its group.
Result submit(Operation operation);

void called(const char* function);
Result check_ready(Comm* comm);
bool is_alive(Comm* comm);
Result gone();
Result fail(Result result, const std::string& error);
void say(const std::string& error);  // what ncclGetLastError gives

}  // namespace fakenccl
