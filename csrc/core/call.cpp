#include "core/call.h"

#include <array>

namespace quoit {
namespace {

constexpr std::array<std::string_view, 11> kOpNames{
    "all_reduce", "broadcast", "all_gather", "reduce_scatter", "all_to_all", "gather",
    "scatter",    "reduce",    "barrier",    "send",           "recv"};

bool reduces(Op op) { return op == Op::AllReduce || op == Op::ReduceScatter || op == Op::Reduce; }

bool rooted(Op op) {
  return op == Op::Broadcast || op == Op::Gather || op == Op::Scatter || op == Op::Reduce;
}

}  // namespace

std::string_view name_of(Op op) { return kOpNames[static_cast<std::size_t>(op)]; }

std::array<std::uint8_t, 5> digest_of_sizes(const std::vector<View>& blocks) {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a, a count at a time
  for (const View& block : blocks) hash = (hash ^ block.count) * 0x100000001b3;
  std::array<std::uint8_t, 5> digest;
  for (std::size_t i = 0; i < digest.size(); ++i)
    digest[i] = static_cast<std::uint8_t>(hash >> (24 + 8 * i));
  return digest;
}

std::string describe(const Call& call) {
  std::string said{name_of(call.op)};
  if (call.op == Op::Send) return text(said, " to rank ", call.root);
  if (call.op == Op::Recv)
    return call.root < 0 ? said + " from any rank" : text(said, " from rank ", call.root);
  said += text(" #", call.sequence);
  if (call.op == Op::Barrier) return said;
  said += text(" ", name_of(call.dtype));
  if (call.count > 0) said += text("[", call.count, "]");
  if (reduces(call.op)) said += text(" ", name_of(call.reduce));
  if (rooted(call.op)) said += text(" root ", call.root);
  return said;
}

std::string describe_mismatch(int peer, const Call& theirs, const Call& mine) {
  return text("ranks disagree: rank ", peer, " called ", describe(theirs), ", this rank called ",
              describe(mine), theirs.blocks != mine.blocks ? " with blocks of other sizes" : "",
              ". All ranks of a group must make the same calls in the same order, "
              "with the same dtype, size, reduce op and root");
}

}  // namespace quoit
