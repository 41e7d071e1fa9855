#pragma once
// What a rank says it is doing. A Call rides on every round of a board and on the messages of every
// collective (or beside them), so that ranks which disagree find out instead of exchanging garbage.
#include <array>
#include <string>
#include <vector>

#include "core/types.h"

namespace quoit {

enum class Op : std::uint8_t {
  AllReduce,
  Broadcast,
  AllGather,
  ReduceScatter,
  AllToAll,
  Gather,
  Scatter,
  Reduce,
  Barrier,
  CompressedAllReduce,
  CompressedReduceScatter,
  CompressedAllGather,
  Send,
  Recv,
};
constexpr std::size_t kOps = static_cast<std::size_t>(Op::Recv) + 1;
std::string_view name_of(Op op);

struct Call {
  std::uint64_t count = 0;     // elements every rank must agree on; 0 where they may differ
  std::uint32_t sequence = 0;  // of the group's collectives, from 1
  std::int32_t root = -1;      // or the peer of a send or recv
  Op op = Op::Barrier;
  DType dtype = DType::UInt8;
  ReduceOp reduce = ReduceOp::Sum;
  // 0 where the memory is the host's; 1 where it is an accelerator's; 2 where the network is given
  // that, while otherwise large calls go in pieces, by way of the host.
  std::uint8_t staged = 0;
  // A digest of the sizes of blocks that may differ, or of how they are encoded; it also keeps the
  // struct free of padding, as it is compared as bytes on the wire.
  std::array<std::uint8_t, 4> blocks{};

  friend bool operator==(const Call&, const Call&) = default;
};
static_assert(sizeof(Call) == 24);

// Whether bytes that came in place of a call may be one: otherwise it has no description.
bool well_formed(const Call& call);

std::array<std::uint8_t, 4> digest_of_sizes(const std::vector<View>& blocks);
std::array<std::uint8_t, 4> digest_of_text(std::string_view text);

// "all_reduce #41 float32[16] SUM"
std::string describe(const Call& call);

// "rank 1 called all_reduce #41 float32[16] SUM, this rank called ...": what to tell when two ranks
// disagree.
std::string describe_mismatch(int peer, const Call& theirs, const Call& mine);

}  // namespace quoit
