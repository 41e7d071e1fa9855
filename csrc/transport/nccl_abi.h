#pragma once
// The binary interface of NCCL, written down here so that Quoit needs no NCCL to build and serves
// whichever one torch brings: what NCCL 2.19 and later document and Quoit uses.
#include <array>
#include <climits>
#include <cstddef>

namespace quoit {

using NcclComm = struct NcclCommOfLibrary*;

struct NcclUniqueId {
  std::array<char, 128> bytes{};
};

enum NcclResult : int { kNcclSuccess = 0, kNcclInProgress = 7 };

enum class NcclType : int {
  Int8 = 0,
  UInt8 = 1,
  Int32 = 2,
  UInt32 = 3,
  Int64 = 4,
  UInt64 = 5,
  Float16 = 6,
  Float32 = 7,
  Float64 = 8,
  BFloat16 = 9,
};

// Operations that a program makes (PREMUL_SUM) have numbers above these.
using NcclOp = int;
inline constexpr NcclOp kNcclSum = 0, kNcclProd = 1, kNcclMax = 2, kNcclMin = 3, kNcclAvg = 4;

// Where the factor of PREMUL_SUM lies: in host memory, and read at once.
inline constexpr int kNcclScalarHostImmediate = 1;

inline constexpr int nccl_version(int major, int minor, int patch) {
  return major * 10000 + minor * 100 + patch;
}
inline constexpr int kOldestNccl = nccl_version(2, 19, 0);

// As in 2.19. Later libraries know by `size` and `version` which members they find.
struct NcclConfig {
  static constexpr int kUndefined = INT_MIN;
  std::size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = kOldestNccl;
  int blocking = kUndefined;
  int cga_cluster_size = kUndefined;
  int min_ctas = kUndefined;
  int max_ctas = kUndefined;
  const char* net_name = nullptr;
  int split_share = kUndefined;
};

// The functions, under NCCL's names without the prefix. `stream` is the device's own handle.
struct NcclCalls {
  NcclResult (*get_version)(int* version);
  NcclResult (*get_unique_id)(NcclUniqueId* id);
  NcclResult (*comm_init_rank_config)(NcclComm* comm, int ranks, NcclUniqueId id, int rank,
                                      NcclConfig* config);
  NcclResult (*comm_get_async_error)(NcclComm comm, NcclResult* error);
  NcclResult (*comm_finalize)(NcclComm comm);
  NcclResult (*comm_destroy)(NcclComm comm);
  NcclResult (*comm_abort)(NcclComm comm);
  const char* (*get_error_string)(NcclResult result);
  const char* (*get_last_error)(NcclComm comm);
  NcclResult (*group_start)();
  NcclResult (*group_end)();
  NcclResult (*all_reduce)(const void* in, void* out, std::size_t count, NcclType type, NcclOp op,
                           NcclComm comm, void* stream);
  NcclResult (*reduce)(const void* in, void* out, std::size_t count, NcclType type, NcclOp op,
                       int root, NcclComm comm, void* stream);
  NcclResult (*broadcast)(const void* in, void* out, std::size_t count, NcclType type, int root,
                          NcclComm comm, void* stream);
  NcclResult (*all_gather)(const void* in, void* out, std::size_t count, NcclType type,
                           NcclComm comm, void* stream);
  NcclResult (*reduce_scatter)(const void* in, void* out, std::size_t count, NcclType type,
                               NcclOp op, NcclComm comm, void* stream);
  NcclResult (*send)(const void* in, std::size_t count, NcclType type, int peer, NcclComm comm,
                     void* stream);
  NcclResult (*recv)(void* out, std::size_t count, NcclType type, int peer, NcclComm comm,
                     void* stream);
  NcclResult (*red_op_create_pre_mul_sum)(NcclOp* op, void* factor, NcclType type, int residence,
                                          NcclComm comm);
  NcclResult (*red_op_destroy)(NcclOp op, NcclComm comm);
};

}  // namespace quoit
