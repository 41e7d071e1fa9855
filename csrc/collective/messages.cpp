#include "collective/messages.h"

#include <algorithm>
#include <optional>

#include "collective/announcement.h"
#include "collective/recursive.h"

namespace quoit {
namespace {

void copy_view(const Hands& hands, View from, View to) {
  hands.copy(from.data, to.data, from.bytes());
}

View of_rank(const std::vector<View>& views, int rank) {
  return views[static_cast<std::size_t>(rank)];
}

}  // namespace

Task message_all_reduce(Algorithm way, Hands hands, Ring ring, Call call, View in, View out,
                        ReduceStep step, std::shared_ptr<Workspace> workspace) {
  if (way == Algorithm::Doubling)
    return doubling_all_reduce(hands, std::move(ring), call, in, out, step, std::move(workspace));
  if (way == Algorithm::Halving)
    return halving_all_reduce(hands, std::move(ring), in, out, step, std::move(workspace));
  return ring_all_reduce(hands, std::move(ring), in, out, step, std::move(workspace));
}

Task chain_broadcast(Hands hands, Ring ring, View data, int root) {
  const bool first = ring.rank_at(ring.position) == root;
  const bool last = ring.next() == root;
  const std::size_t segments = std::max<std::size_t>(1, ceil_div(data.bytes(), kChainSegment));
  std::optional<Transfer> sent;
  for (std::size_t s = 0; s < segments; ++s) {
    const View segment = data.at(Slice{0, data.count}.piece(segments, s));
    if (!first) {
      Transfer arrived = hands.recv(ring.prev(), segment.raw());
      co_await arrived;
    }
    if (last) continue;
    if (sent) co_await *sent;
    sent.emplace(hands.send(ring.next(), segment.raw()));
  }
  if (sent) co_await *sent;
}

Task tree_broadcast(Hands hands, Ring ring, View data, int root) {
  const int at_root = ring.position_of(root);
  const int me = ring.wrap(ring.position - at_root);
  int reach = 1;  // ranks at distance < reach from the root have the data
  for (; reach <= me; reach *= 2) {
    if (me >= 2 * reach) continue;
    Transfer arrived = hands.recv(ring.rank_at(at_root + me - reach), data.raw());
    co_await arrived;
  }
  for (; me + reach < ring.size(); reach *= 2) {
    Transfer sent = hands.send(ring.rank_at(at_root + me + reach), data.raw());
    co_await sent;
  }
}

Task pairwise_all_to_all(Hands hands, Ring ring, std::vector<View> ins, std::vector<View> outs) {
  copy_view(hands, of_rank(ins, hands.rank()), of_rank(outs, hands.rank()));
  for (int distance = 1; distance < ring.size(); ++distance) {
    const int to = ring.rank_at(ring.position + distance);
    const int from = ring.rank_at(ring.position - distance);
    Exchange exchange = hands.exchange(to, of_rank(ins, to).raw(), from, of_rank(outs, from).raw());
    co_await exchange;
  }
}

Task linear_gather(Hands hands, View in, std::vector<View> outs, int root) {
  if (hands.rank() != root) {
    Transfer sent = hands.send(root, in.raw());
    co_await sent;
    co_return;
  }
  copy_view(hands, in, of_rank(outs, root));
  std::vector<Transfer> arriving;
  for (int peer = 0; peer < hands.size(); ++peer)
    if (peer != root) arriving.push_back(hands.recv(peer, of_rank(outs, peer).raw()));
  for (Transfer& transfer : arriving) co_await transfer;
}

Task linear_scatter(Hands hands, std::vector<View> ins, View out, int root) {
  if (hands.rank() != root) {
    Transfer arrived = hands.recv(root, out.raw());
    co_await arrived;
    co_return;
  }
  copy_view(hands, of_rank(ins, root), out);
  std::vector<Transfer> leaving;
  for (int peer = 0; peer < hands.size(); ++peer)
    if (peer != root) leaving.push_back(hands.send(peer, of_rank(ins, peer).raw()));
  for (Transfer& transfer : leaving) co_await transfer;
}

Task ring_reduce(Hands hands, Ring ring, View in, View out, ReduceStep step, int root,
                 std::shared_ptr<Workspace> workspace) {
  const std::vector<Slice> chunks = equal_chunks(in.count, ring.size());
  std::vector<View> blocks;
  for (const Slice& chunk : chunks) blocks.push_back(in.at(chunk));
  const Slice mine = chunks[static_cast<std::size_t>(ring.position)];
  // The reduced chunk replaces this rank's part of the copy that the pass works on.
  const View data{workspace->copy.get(in.bytes()), in.count, in.dtype};
  co_await ring_reduce_scatter(hands, ring, blocks, data.at(mine), step, workspace);
  co_await hands.settled();
  if (hands.rank() != root) {
    Transfer sent = hands.send(root, data.at(mine).raw());
    co_await sent;
    co_return;
  }
  copy_view(hands, data.at(mine), out.at(mine));
  for (int i = 0; i < ring.size(); ++i) {
    if (i == ring.position) continue;
    Transfer arrived =
        hands.recv(ring.rank_at(i), out.at(chunks[static_cast<std::size_t>(i)]).raw());
    co_await arrived;
  }
}

Task send_message(Network& net, int to, Tag tag, View data) {
  Transfer transfer = net.send(to, tag, data.raw());
  co_await transfer;
}

Task receive_message(Network& net, int from, Tag tag, View into, Work* told) {
  Transfer transfer = net.recv(from, tag, into.raw());
  const int peer = co_await transfer;
  if (told != nullptr) told->set_source(peer);
  if (transfer.announced())
    co_await receive_by_host(net, peer, Announcement::read(transfer.whole()), into);
}

}  // namespace quoit
