#pragma once
// The memory that the ranks of one group on one host share: who they are, what went wrong, the
// board of the direct collectives, the pipes of the point-to-point messages, and what ranks tell of
// their accelerators.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/clock.h"
#include "transport/board.h"
#include "transport/introductions.h"
#include "transport/peer_memory.h"
#include "transport/shm.h"

namespace quoit {

class HostSegment {
 public:
  // Who shares the segment, in group rank order, and where this rank stands among them.
  struct Members {
    std::vector<int> ranks;    // of the group
    std::vector<Bell*> bells;  // one each
    int mine = 0;              // position of this rank
    SingleCopy single_copy = SingleCopy::Auto;
  };

  static std::size_t bytes(int members);

  // `memory` is zeroed by whoever created it and kept alive by `keep`; `bells` outlive the segment.
  HostSegment(std::shared_ptr<void> keep, std::byte* memory, Members members);

  ~HostSegment() { leave(); }
  HostSegment(const HostSegment&) = delete;
  HostSegment& operator=(const HostSegment&) = delete;

  // Says that this rank left; peers that still wait for it find out.
  void leave();

  // Waits until all members have mapped the segment. Throws TimeoutError naming those who have not.
  void await_all(Deadline deadline);

  [[nodiscard]] Board& board() { return board_; }
  [[nodiscard]] PeerMemory& peers() { return peers_; }
  [[nodiscard]] Introductions& introductions() { return introductions_; }

  // Holds the segment's memory.
  [[nodiscard]] std::shared_ptr<void> keep() const { return keep_; }
  [[nodiscard]] ShmTransport::Host pipes() {
    return {members_.ranks, members_.bells, pipes_, &peers_, keep_};
  }

  // Tells all members why the group cannot go on; the first one to speak is heard.
  void announce_fault(const std::string& why);
  [[nodiscard]] std::optional<std::string> fault() const;

  // Names a member that died, if any. Reads /proc: not for every poll.
  [[nodiscard]] std::optional<std::string> dead() const;

  // Whether the member at `position` left in good order.
  [[nodiscard]] bool left(int position) const;

 private:
  struct Header;

  std::shared_ptr<void> keep_;
  Members members_;
  Header* header_;
  Board board_;
  Pipe* pipes_;
  Introductions introductions_;
  PeerMemory peers_;
};

}  // namespace quoit
