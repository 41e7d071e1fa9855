#include "torch/nccl_edges.h"

#include <algorithm>
#include <cstring>
#include <thread>

namespace quoit {
namespace {

constexpr Seconds kNcclIssueWithin{2e-4};  // then the watch takes over

}  // namespace

std::shared_ptr<NcclCall> NcclEdges::transfer(const NcclLibrary* library, Message message) {
  const c10::Device device = message.data.device();
  const c10::impl::VirtualGuardImpl guard(device.type());
  const c10::Stream current = guard.getStream(device);
  const bool captured = is_capturing(current);
  const bool sending = message.sending;
  std::unique_lock lock(order);
  check();
  library_ = library;
  device_ = device;
  Edge& edge = edges_[{message.peer, sending}];
  QUOIT_CHECK(!captured || (edge.calls > 0 && edge.queue.empty()), UsageError,
              sending ? "send to" : "recv from", " rank ", message.peer,
              " in a graph capture: the first message of a pair of ranks makes its communicator, "
              "which cannot be captured: let them exchange one before");
  if (sending && !edge.communicator) {
    NcclUniqueId id;
    library->check(library->calls.get_unique_id(&id), "ncclGetUniqueId", nullptr);
    connect(edge, id, true, device);
    const std::int64_t offer = store.add(text("offers/", message.peer), 1);
    store.set(text("offer/", message.peer, "/", offer),
              text(rank, "\n", std::string_view(id.bytes.data(), id.bytes.size())));
  }
  const c10::Stream stream = edge.communicator ? edge.communicator->stream() : current;
  auto call = std::make_shared<NcclCall>(sending ? c10d::OpType::SEND : c10d::OpType::RECV,
                                         ++edge.calls, stream, message.timeout);
  call->peer = message.peer;
  call->dtype = message.data.scalar_type();
  call->count = message.data.numel();
  call->captured = captured;
  c10::Event ready(device.type());
  ready.record(current);
  edge.queue.push_back({call, std::move(message), std::move(ready)});
  if (!captured) watch(call);

  const Deadline soon = captured ? call->deadline : Deadline::after(kNcclIssueWithin);
  for (step(edge); !call->issued && edge.connected && !soon.passed(); step(edge)) {
    lock.unlock();
    std::this_thread::yield();
    lock.lock();
    check();
  }
  return call;
}

// Beside those who wait for a peer, it may be the peer who waits: offers are taken whether or not
// this rank has called the recv that they are for.
bool NcclEdges::advance() {
  const auto waits = [](const auto& one) { return !one.second.queue.empty(); };
  if (std::none_of(edges_.begin(), edges_.end(), waits)) return false;
  serve();
  for (auto& [who, edge] : edges_) step(edge);
  return std::any_of(edges_.begin(), edges_.end(), waits);
}

void NcclEdges::serve() {
  const auto connects = [](const auto& one) {
    return !one.second.queue.empty() && !one.second.connected;
  };
  if (std::none_of(edges_.begin(), edges_.end(), connects)) return;
  for (std::string key; store.has(key = text("offer/", rank, "/", served_ + 1)); ++served_) {
    const std::string offer = store.get(key);
    const std::size_t end = offer.find('\n');
    NcclUniqueId id;
    QUOIT_CHECK(end != std::string::npos && offer.size() == end + 1 + id.bytes.size(),
                TransportError,
                "the store that the ranks meet in holds something else than what ranks wrote: do "
                "all run the same version of quoit, and is the store theirs alone?");
    std::memcpy(id.bytes.data(), offer.data() + end + 1, id.bytes.size());
    connect(edges_[{std::stoi(offer), false}], id, false, *device_);
  }
}

void NcclEdges::connect(Edge& edge, const NcclUniqueId& id, bool sending, c10::Device device) {
  edge.communicator = std::make_shared<NcclCommunicator>(*library_, id, 2, sending ? 0 : 1, device);
  add(edge.communicator);
}

void NcclEdges::step(Edge& edge) {
  if (!edge.communicator) return;
  while (edge.communicator->settled()) {
    edge.connected = true;
    if (edge.queue.empty()) return;
    Transfer& transfer = edge.queue.front();
    if (!transfer.begun) {
      begin(edge, transfer);
      transfer.begun = true;
      continue;
    }
    finish(transfer);
    edge.queue.pop_front();
  }
}

void NcclEdges::begin(Edge& edge, Transfer& transfer) const {
  NcclCommunicator& communicator = *edge.communicator;
  transfer.call->stream = communicator.stream();
  const c10::StreamGuard in(communicator.stream());
  transfer.ready.block(communicator.stream());
  const Message& message = transfer.message;
  const auto bytes = static_cast<std::size_t>(message.data.nbytes());
  if (bytes == 0) return;
  void* const stream = native_handle(communicator.stream());
  const NcclCalls& nccl = communicator.library().calls;
  if (message.sending)
    communicator.check(nccl.send(message.data.const_data_ptr(), bytes, NcclType::UInt8, 1,
                                 communicator.handle(), stream),
                       "ncclSend");
  else
    communicator.check(nccl.recv(message.data.data_ptr(), bytes, NcclType::UInt8, 0,
                                 communicator.handle(), stream),
                       "ncclRecv");
}

void NcclEdges::finish(Transfer& transfer) {
  const c10::Stream& stream = transfer.call->stream;
  const c10::StreamGuard in(stream);
  if (transfer.message.after) transfer.message.after();
  c10::impl::VirtualGuardImpl(stream.device_type())
      .recordDataPtrOnStream(transfer.message.data.storage().data_ptr(), stream);
  transfer.call->end.record(stream);
  note_issued(*transfer.call);
}

}  // namespace quoit
