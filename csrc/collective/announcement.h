#pragma once
// Messages from the memory of a device, whose bytes need not go through the host's: the sender
// announces one under its tag, and the receiver that has matched it says how it shall come.
#include "collective/cuda_peers.h"
#include "engine/task.h"
#include "transport/network.h"

namespace quoit {

struct Announcement {
  std::uint64_t number = 0;  // of the message, among those from this rank to that
  std::uint64_t bytes = 0;
  CudaOffer slots;

  // Out of a message of another rank.
  static Announcement read(ConstBytes said);
};

struct Grant {
  enum class Way : std::uint8_t {
    Direct,   // through the sender's slots
    ByHost,   // as a message of the host's memory
    Refused,  // it has the wrong size: nothing moves
  };

  std::uint64_t turn = 0;  // of the message among those that come directly
  Way way = Way::Direct;
  CudaOffer marks;  // of what was read
};

// Where the grant of a message goes, and the message itself if it comes by the host.
constexpr Tag grant_tag(std::uint64_t number) { return -(Tag{1} << 40) - static_cast<Tag>(number); }
constexpr Tag bytes_tag(std::uint64_t number) { return -(Tag{1} << 41) - static_cast<Tag>(number); }

// Throws TransportError unless the announced message has the size of `into`.
void check_fits(int peer, const Announcement& announced, const View& into);

// For who wants it in memory of the host: the rest of a receive that got an announcement.
Task receive_by_host(Network& net, int peer, Announcement announced, View into);

template <class T>
Bytes raw_bytes(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

}  // namespace quoit
