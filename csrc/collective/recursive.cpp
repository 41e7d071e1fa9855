#include "collective/recursive.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace quoit {
namespace {

// The ranks that take part in the steps: a power of two of them, numbered in ring order. Of the
// first pairs of the ring only the second rank does.
struct Team {
  explicit Team(const Ring& ring)
      : power(static_cast<int>(std::bit_floor(static_cast<unsigned>(ring.size())))),
        pairs(ring.size() - power),
        paired(ring.position < 2 * pairs),
        sits_out(paired && ring.position % 2 == 0),
        number(paired ? ring.position / 2 : ring.position - pairs) {}

  // Where in the ring member `i` stands.
  [[nodiscard]] int position(int i) const { return i < pairs ? 2 * i + 1 : i + pairs; }

  int power;
  int pairs;
  bool paired;
  bool sits_out;
  int number;  // in the team, or of the partner when this rank sits out
};

// `mine` becomes the combination of both; the lower position's is the first operand.
void combine(const Hands& hands, View mine, std::byte* theirs, bool mine_first,
             const ReduceStep& step) {
  const std::array<const std::byte*, 2> inputs{mine_first ? mine.data : theirs,
                                               mine_first ? theirs : mine.data};
  hands.reduce(mine.dtype, step, inputs, mine.data, mine.count);
}

ReduceStep undivided(const ReduceStep& step) { return {step.op, step.factor, 1}; }

// Before the steps: the ranks that sit out hand over what they have.
Task fold(const Hands& hands, const Ring& ring, const Team& team, View data, ReduceStep step,
          std::byte* scratch) {
  if (!team.paired) co_return;
  if (team.sits_out) {
    Transfer sent = hands.send(ring.next(), data.raw());
    co_await sent;
  } else {
    Transfer arrived = hands.recv(ring.prev(), Bytes{scratch, data.bytes()});
    co_await arrived;
    combine(hands, data, scratch, /*mine_first=*/false, undivided(step));
    co_await hands.settled();
  }
}

// After the steps: they get the result.
Task unfold(const Hands& hands, const Ring& ring, const Team& team, View theirs) {
  if (!team.paired) co_return;
  Transfer moved =
      team.sits_out ? hands.recv(ring.next(), theirs.raw()) : hands.send(ring.prev(), theirs.raw());
  co_await moved;
}

// Memory cut into one piece per team member; piece s is that of the member whose number is s with
// its bits reversed, so that what a rank has at any step is contiguous.
class Pieces {
 public:
  Pieces(View data, std::vector<std::size_t> bounds) : data_(data), bounds_(std::move(bounds)) {}

  // The `width` pieces from `first` on.
  [[nodiscard]] View at(int first, int width) const {
    const std::size_t begin = bounds_[static_cast<std::size_t>(first)];
    return data_.at({begin, bounds_[static_cast<std::size_t>(first + width)] - begin});
  }

  static int piece_of(int number, int power) {
    int piece = 0;
    for (int bit = 1; bit < power; bit *= 2) piece = 2 * piece + (number & bit ? 1 : 0);
    return piece;
  }

 private:
  View data_;
  std::vector<std::size_t> bounds_;
};

// Gives away half of what is left at each step; this rank's piece ends reduced.
Task halve(const Hands& hands, const Ring& ring, const Team& team, const Pieces& pieces,
           ReduceStep step, std::byte* scratch) {
  const int piece = Pieces::piece_of(team.number, team.power);
  for (int bit = 1, width = team.power / 2; width >= 1; bit *= 2, width /= 2) {
    const int kept = piece / width * width;
    const int partner = ring.rank_at(team.position(team.number ^ bit));
    const View mine = pieces.at(kept, width);
    Exchange exchange = hands.exchange(partner, pieces.at(kept ^ width, width).raw(), partner,
                                       Bytes{scratch, mine.bytes()});
    co_await exchange;
    combine(hands, mine, scratch, (team.number & bit) == 0, width == 1 ? step : undivided(step));
    co_await hands.settled();
  }
}

// The way back: doubles what is complete at each step.
Task spread(const Hands& hands, const Ring& ring, const Team& team, const Pieces& pieces) {
  const int piece = Pieces::piece_of(team.number, team.power);
  for (int bit = team.power / 2, width = 1; bit >= 1; bit /= 2, width *= 2) {
    const int held = piece / width * width;
    const int partner = ring.rank_at(team.position(team.number ^ bit));
    Exchange exchange = hands.exchange(partner, pieces.at(held, width).raw(), partner,
                                       pieces.at(held ^ width, width).raw());
    co_await exchange;
  }
}

// A rank's message of a doubling and the one it hears: the call, on the host, then data.
class Letters {
 public:
  // Before `mine` and `theirs` there is room for head(hands).
  Letters(const Hands& hands, const Call& call, std::byte* mine, std::byte* theirs,
          std::size_t data)
      : hands_(hands), call_(call), bytes_(head(hands) + data), mine_(mine), theirs_(theirs) {
    if (head(hands_) > 0) std::memcpy(mine_, &call_, sizeof(Call));
  }

  // Bytes in front of the data.
  static std::size_t head(const Hands& hands) {
    return hands.device() == nullptr ? sizeof(Call) : 0;
  }

  [[nodiscard]] std::byte* mine() const { return mine_ + head(hands_); }
  [[nodiscard]] std::byte* theirs() const { return theirs_ + head(hands_); }

  Task swap(int with) {
    Exchange exchange = hands_.exchange(with, {mine_, bytes_}, with, {theirs_, bytes_}, Fit::Any);
    const std::size_t size = co_await exchange;
    check(with, theirs_, size);
  }
  Task give(int to) {
    Transfer sent = hands_.send(to, {mine_, bytes_});
    co_await sent;
  }
  Task take(int from, std::byte* into) {
    Transfer arrived = hands_.recv(from, {into, bytes_}, Fit::Any);
    co_await arrived;
    check(from, into, arrived.size());
  }
  // Into theirs(), or, when it is the result, into mine().
  Task hear(int from) { return take(from, theirs_); }
  Task hear_result(int from) { return take(from, mine_); }

 private:
  void check(int from, const std::byte* letter, std::size_t size) const {
    if (head(hands_) == 0) return;
    Call theirs;
    const bool whole = size >= sizeof theirs;
    if (whole) std::memcpy(&theirs, letter, sizeof theirs);
    QUOIT_CHECK(whole && well_formed(theirs), TransportError, "rank ", from, " sent ", size,
                " bytes that begin with no call: do all ranks run the same version of quoit?");
    QUOIT_CHECK(theirs == call_, UsageError, describe_mismatch(from, theirs, call_));
    QUOIT_CHECK(size == bytes_, UsageError, "rank ", from,
                " goes about the same call by another algorithm: give all ranks the same "
                "QUOIT_ALGORITHM, and the same QUOIT_TUNING file");
  }

  Hands hands_;
  Call call_;
  std::size_t bytes_;
  std::byte* mine_;
  std::byte* theirs_;
};

// The sum of everybody's letters.
Task doubling(const Hands& hands, const Ring& ring, Letters& letters, std::size_t count,
              DType dtype, ReduceStep step) {
  const Team team(ring);
  const View sum{letters.mine(), count, dtype};
  if (team.sits_out) {
    co_await letters.give(ring.next());
    co_await letters.hear_result(ring.next());
    co_return;
  }
  if (team.paired) {
    co_await letters.hear(ring.prev());
    combine(hands, sum, letters.theirs(), /*mine_first=*/false, undivided(step));
    co_await hands.settled();
  }
  for (int bit = 1; bit < team.power; bit *= 2) {
    co_await letters.swap(ring.rank_at(team.position(team.number ^ bit)));
    combine(hands, sum, letters.theirs(), (team.number & bit) == 0,
            2 * bit == team.power ? step : undivided(step));
    co_await hands.settled();
  }
  if (team.paired) co_await letters.give(ring.prev());
}

}  // namespace

Task doubling_all_reduce(Hands hands, Ring ring, Call call, View in, View out, ReduceStep step,
                         std::shared_ptr<Workspace> workspace) {
  const std::size_t bytes = Letters::head(hands) + out.bytes();
  Letters letters(hands, call, workspace->copy.get(bytes), workspace->segments.get(bytes),
                  out.bytes());
  const View sum{letters.mine(), out.count, out.dtype};
  step = load_input(hands, in, sum, step);
  co_await hands.settled();
  co_await doubling(hands, ring, letters, out.count, out.dtype, step);
  hands.copy(sum.data, out.data, out.bytes());
}

Task greet(Network& net, Ring ring, Call call) {
  std::array<std::byte, 2 * sizeof(Call)> memory;
  const Hands hands(net, kGreetingTag);
  Letters letters(hands, call, memory.data(), memory.data() + sizeof(Call), 0);
  co_await doubling(hands, ring, letters, 0, DType::UInt8, {});  // of a type that can be added up
}

Task halving_all_reduce(Hands hands, Ring ring, View in, View out, ReduceStep step,
                        std::shared_ptr<Workspace> workspace) {
  const Team team(ring);
  std::byte* const scratch = workspace->segments.get(out.bytes());
  std::vector<std::size_t> bounds{0};
  for (const Slice& chunk : equal_chunks(out.count, team.power))
    bounds.push_back(chunk.begin + chunk.count);
  const Pieces pieces(out, std::move(bounds));
  step = load_input(hands, in, out, step);
  co_await hands.settled();
  co_await fold(hands, ring, team, out, step, scratch);
  if (!team.sits_out) {
    co_await halve(hands, ring, team, pieces, step, scratch);
    co_await spread(hands, ring, team, pieces);
  }
  co_await unfold(hands, ring, team, out);
}

Task halving_reduce_scatter(Hands hands, Ring ring, std::vector<View> in, View out, ReduceStep step,
                            std::shared_ptr<Workspace> workspace) {
  const Team team(ring);
  std::size_t count = 0;
  for (const View& block : in) count += block.count;
  const View data{workspace->copy.get(count * size_of(out.dtype)), count, out.dtype};
  std::byte* const scratch = workspace->segments.get(data.bytes());

  // A member's piece: the block of the rank that sits out for it, if any, then its own.
  ReduceStep loaded = step;
  std::vector<std::size_t> bounds{0};
  std::size_t filled = 0;
  for (int piece = 0; piece < team.power; ++piece) {
    const int member = Pieces::piece_of(piece, team.power);  // reversing twice is nothing
    const int last = team.position(member);
    for (int position = member < team.pairs ? last - 1 : last; position <= last; ++position) {
      const View block = in[static_cast<std::size_t>(position)];
      loaded = load_input(hands, block, data.at({filled, block.count}), step);
      filled += block.count;
    }
    bounds.push_back(filled);
  }
  const Pieces pieces(data, std::move(bounds));
  co_await hands.settled();
  co_await fold(hands, ring, team, data, loaded, scratch);
  if (team.sits_out) {
    co_await unfold(hands, ring, team, out);
    co_return;
  }
  co_await halve(hands, ring, team, pieces, loaded, scratch);
  const View mine = pieces.at(Pieces::piece_of(team.number, team.power), 1);
  const std::size_t partners = mine.count - out.count;
  co_await unfold(hands, ring, team, mine.at({0, partners}));
  hands.copy(mine.at({partners, out.count}).data, out.data, out.bytes());
}

Task doubling_all_gather(Hands hands, Ring ring, View in, std::vector<View> outs,
                         std::shared_ptr<Workspace> workspace) {
  const int n = ring.size();
  const auto block = [&](int i) {
    return outs[static_cast<std::size_t>(ring.wrap(ring.position + i))];
  };
  // Blocks lie in ring order from this rank's own on.
  std::vector<std::size_t> bounds{0};
  for (int i = 0; i < n; ++i) bounds.push_back(bounds.back() + block(i).bytes());
  std::byte* const held = workspace->copy.get(bounds.back());
  const auto blocks = [&](int first, int count) {
    const std::size_t begin = bounds[static_cast<std::size_t>(first)];
    return Bytes{held + begin, bounds[static_cast<std::size_t>(first + count)] - begin};
  };
  hands.copy(in.data, held, in.bytes());
  co_await hands.settled();
  for (int distance = 1; distance < n; distance *= 2) {
    const int count = std::min(distance, n - distance);
    Exchange exchange =
        hands.exchange(ring.rank_at(ring.position - distance), blocks(0, count),
                       ring.rank_at(ring.position + distance), blocks(distance, count));
    co_await exchange;
  }
  for (int i = 0; i < n; ++i) hands.copy(blocks(i, 1).data(), block(i).data, block(i).bytes());
}

Task tree_reduce(Hands hands, Ring ring, View in, View out, ReduceStep step, int root,
                 std::shared_ptr<Workspace> workspace) {
  const int n = ring.size();
  const int me = ring.wrap(ring.position - ring.position_of(root));
  const View sum = me == 0 ? out : View{workspace->copy.get(in.bytes()), in.count, in.dtype};
  std::byte* const scratch = workspace->segments.get(in.bytes());
  step = load_input(hands, in, sum, step);
  co_await hands.settled();
  for (int bit = 1; bit < n; bit *= 2) {
    if (me & bit) {
      Transfer sent = hands.send(ring.rank_at(ring.position - bit), sum.raw());
      co_await sent;
      co_return;
    }
    if (me + bit >= n) continue;
    Transfer arrived = hands.recv(ring.rank_at(ring.position + bit), Bytes{scratch, sum.bytes()});
    co_await arrived;
    combine(hands, sum, scratch, /*mine_first=*/true, 2 * bit >= n ? step : undivided(step));
    co_await hands.settled();
  }
}

}  // namespace quoit
