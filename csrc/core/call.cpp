#include "core/call.h"

#include <array>

#include "core/hash.h"

namespace quoit {
namespace {

constexpr std::array<std::string_view, kOps> kOpNames{"all_reduce",
                                                      "broadcast",
                                                      "all_gather",
                                                      "reduce_scatter",
                                                      "all_to_all",
                                                      "gather",
                                                      "scatter",
                                                      "reduce",
                                                      "barrier",
                                                      "compressed all_reduce",
                                                      "compressed reduce_scatter",
                                                      "compressed all_gather",
                                                      "send",
                                                      "recv"};

bool reduces(Op op) {
  return op == Op::AllReduce || op == Op::ReduceScatter || op == Op::Reduce ||
         op == Op::CompressedAllReduce || op == Op::CompressedReduceScatter;
}

bool compresses(Op op) {
  return op == Op::CompressedAllReduce || op == Op::CompressedReduceScatter ||
         op == Op::CompressedAllGather;
}

bool rooted(Op op) {
  return op == Op::Broadcast || op == Op::Gather || op == Op::Scatter || op == Op::Reduce;
}

}  // namespace

std::string_view name_of(Op op) { return kOpNames[static_cast<std::size_t>(op)]; }

bool well_formed(const Call& call) {
  return static_cast<std::size_t>(call.op) < kOps && static_cast<int>(call.dtype) < kDTypes &&
         static_cast<int>(call.reduce) < kReduceOps && call.staged <= 2;
}

std::array<std::uint8_t, 4> digest_of_sizes(const std::vector<View>& blocks) {
  Hash hash;
  for (const View& block : blocks) hash.take(block.count);
  return hash.digest();
}

std::array<std::uint8_t, 4> digest_of_text(std::string_view text) {
  Hash hash;
  for (const char letter : text) hash.take(static_cast<unsigned char>(letter));
  return hash.digest();
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
  if (call.staged != 0) said += " on an accelerator";
  if (call.staged == 2) said += ", whose memory MPI takes";
  return said;
}

std::string describe_mismatch(int peer, const Call& theirs, const Call& mine) {
  return text("ranks disagree: rank ", peer, " called ", describe(theirs), ", this rank called ",
              describe(mine),
              theirs.blocks == mine.blocks ? ""
              : compresses(mine.op) && compresses(theirs.op)
                  ? " with tensors of other sizes or codecs, or low-rank factors of another step"
                  : " with blocks of other sizes",
              ". All ranks of a group must make the same calls in the same order, "
              "with the same dtype, size, reduce op and root");
}

}  // namespace quoit
