// The operations of the fake NCCL: what each rank sends, receives and then computes.

#include <array>
#include <cstring>

#include "nccl_comm.h"
#include "nccl_reduce.h"

namespace fakenccl {
namespace {

Result check(Comm* comm, int type, int root = 0) {
  if (type < 0 || type >= static_cast<int>(kBytes.size())) {
    return fail(kInvalidArgument, "no data type: " + std::to_string(type));
  }
  if (Result ready = check_ready(comm); ready != kSuccess) return ready;
  if (root < 0 || root >= comm->size) {
    return fail(kInvalidArgument, "no rank of this communicator: " + std::to_string(root));
  }
  return kSuccess;
}

Result check_reduction(Comm* comm, int reduction) {
  if (reduction >= 0 && reduction < kReductions) return kSuccess;
  std::lock_guard lock(comm->mutex);
  return comm->scales.contains(reduction)
             ? kSuccess
             : fail(kInvalidArgument, "no reduction: " + std::to_string(reduction));
}

// The input of a reduction: the caller's, or where it will be, multiplied, when the work runs.
const void* input_of(Operation& operation, const void* in, size_t count, int type, int op) {
  if (op < kReductions) return in;
  ScaleOp scale;
  {
    std::lock_guard lock(operation.comm->mutex);
    scale = operation.comm->scales.at(op);
  }
  auto scaled = std::make_shared<std::vector<char>>(count * kBytes.at(static_cast<size_t>(type)));
  operation.prepare = [=] {
    const void* factor = scale.device != nullptr ? scale.device : scale.immediate;
    reduce(static_cast<Type>(type), kSum, factor, {in}, scaled->data(), count);
  };
  return scaled->data();
}

// Of every rank's `bytes` at `data + rank * stride`, or at `data` with stride 0.
void send_to_all(Operation& operation, const void* data, size_t bytes, size_t stride) {
  Comm* comm = operation.comm;
  auto* from = static_cast<char*>(const_cast<void*>(data));
  for (int peer = 0; peer < comm->size; ++peer) {
    if (peer == comm->rank) continue;
    operation.transfers.push_back(
        {comm, peer, true, from + static_cast<size_t>(peer) * stride, bytes});
  }
}

// Takes the inputs of all ranks, own being this one's, and reduces them into out.
void reduce_here(Operation& operation, const void* own, void* out, size_t count, int type, int op) {
  Comm* comm = operation.comm;
  const size_t bytes = count * kBytes.at(static_cast<size_t>(type));
  auto parts = std::make_shared<std::vector<std::vector<char>>>(comm->size);
  std::vector<const void*> inputs;
  for (int peer = 0; peer < comm->size; ++peer) {
    if (peer == comm->rank) {
      inputs.push_back(own);
      continue;
    }
    auto& part = (*parts)[static_cast<size_t>(peer)];
    part.resize(bytes);
    inputs.push_back(part.data());
    operation.transfers.push_back({comm, peer, false, part.data(), bytes});
  }
  const auto reduction = op < kReductions ? static_cast<Reduction>(op) : kSum;
  operation.finish = [=, held = parts] {
    reduce(static_cast<Type>(type), reduction, nullptr, inputs, out, count);
  };
}

}  // namespace
}  // namespace fakenccl

using namespace fakenccl;

extern "C" {

Result ncclAllReduce(const void* in, void* out, size_t count, int type, int op, Comm* comm,
                     void* stream) {
  called(__func__);
  if (Result bad = check(comm, type); bad != kSuccess) return bad;
  if (Result bad = check_reduction(comm, op); bad != kSuccess) return bad;
  Operation operation{comm, stream, true};
  in = input_of(operation, in, count, type, op);
  send_to_all(operation, in, count * kBytes[static_cast<size_t>(type)], 0);
  reduce_here(operation, in, out, count, type, op);
  return submit(std::move(operation));
}

Result ncclReduce(const void* in, void* out, size_t count, int type, int op, int root, Comm* comm,
                  void* stream) {
  called(__func__);
  if (Result bad = check(comm, type, root); bad != kSuccess) return bad;
  if (Result bad = check_reduction(comm, op); bad != kSuccess) return bad;
  Operation operation{comm, stream, true};
  in = input_of(operation, in, count, type, op);
  if (comm->rank == root) {
    reduce_here(operation, in, out, count, type, op);
  } else {
    const size_t bytes = count * kBytes[static_cast<size_t>(type)];
    operation.transfers.push_back(
        {comm, root, true, static_cast<char*>(const_cast<void*>(in)), bytes});
  }
  return submit(std::move(operation));
}

Result ncclBroadcast(const void* in, void* out, size_t count, int type, int root, Comm* comm,
                     void* stream) {
  called(__func__);
  if (Result bad = check(comm, type, root); bad != kSuccess) return bad;
  const size_t bytes = count * kBytes[static_cast<size_t>(type)];
  Operation operation{comm, stream, true};
  if (comm->rank == root) {
    send_to_all(operation, in, bytes, 0);
    operation.finish = [=] { std::memmove(out, in, bytes); };
  } else {
    operation.transfers.push_back({comm, root, false, static_cast<char*>(out), bytes});
  }
  return submit(std::move(operation));
}

Result ncclAllGather(const void* in, void* out, size_t count, int type, Comm* comm, void* stream) {
  called(__func__);
  if (Result bad = check(comm, type); bad != kSuccess) return bad;
  const size_t bytes = count * kBytes[static_cast<size_t>(type)];
  Operation operation{comm, stream, true};
  send_to_all(operation, in, bytes, 0);
  auto* to = static_cast<char*>(out);
  for (int peer = 0; peer < comm->size; ++peer) {
    if (peer == comm->rank) continue;
    operation.transfers.push_back(
        {comm, peer, false, to + static_cast<size_t>(peer) * bytes, bytes});
  }
  operation.finish = [=, own = to + static_cast<size_t>(comm->rank) * bytes] {
    std::memmove(own, in, bytes);
  };
  return submit(std::move(operation));
}

Result ncclReduceScatter(const void* in, void* out, size_t count, int type, int op, Comm* comm,
                         void* stream) {
  called(__func__);
  if (Result bad = check(comm, type); bad != kSuccess) return bad;
  if (Result bad = check_reduction(comm, op); bad != kSuccess) return bad;
  const size_t bytes = count * kBytes[static_cast<size_t>(type)];
  Operation operation{comm, stream, true};
  in = input_of(operation, in, count * static_cast<size_t>(comm->size), type, op);
  send_to_all(operation, in, bytes, bytes);
  const char* own = static_cast<const char*>(in) + static_cast<size_t>(comm->rank) * bytes;
  reduce_here(operation, own, out, count, type, op);
  return submit(std::move(operation));
}

Result ncclSend(const void* data, size_t count, int type, int peer, Comm* comm, void* stream) {
  called(__func__);
  if (Result bad = check(comm, type, peer); bad != kSuccess) return bad;
  auto* from = static_cast<char*>(const_cast<void*>(data));
  const size_t bytes = count * kBytes[static_cast<size_t>(type)];
  return submit({comm, stream, false, {{comm, peer, true, from, bytes}}});
}

Result ncclRecv(void* data, size_t count, int type, int peer, Comm* comm, void* stream) {
  called(__func__);
  if (Result bad = check(comm, type, peer); bad != kSuccess) return bad;
  const size_t bytes = count * kBytes[static_cast<size_t>(type)];
  return submit({comm, stream, false, {{comm, peer, false, static_cast<char*>(data), bytes}}});
}

// residence: 0 device memory, read when the work runs; 1 host memory, read now.
Result ncclRedOpCreatePreMulSum(int* op, void* scalar, int type, int residence, Comm* comm) {
  called(__func__);
  if (Result bad = check(comm, type); bad != kSuccess) return bad;
  ScaleOp scale;
  if (residence == 0)
    scale.device = scalar;
  else
    std::memcpy(scale.immediate, scalar, kBytes[static_cast<size_t>(type)]);
  std::lock_guard lock(comm->mutex);
  *op = comm->scales.empty() ? kReductions : comm->scales.rbegin()->first + 1;
  comm->scales[*op] = scale;
  return kSuccess;
}

Result ncclRedOpDestroy(int op, Comm* comm) {
  called(__func__);
  if (!is_alive(comm)) return gone();
  std::lock_guard lock(comm->mutex);
  return comm->scales.erase(op) == 1
             ? kSuccess
             : fail(kInvalidArgument, "no reduction: " + std::to_string(op));
}
}
