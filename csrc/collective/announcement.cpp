#include "collective/announcement.h"

#include <algorithm>
#include <cstring>

namespace quoit {

Announcement Announcement::read(ConstBytes said) {
  Announcement announced;
  std::memcpy(&announced, said.data(), std::min(said.size(), sizeof announced));
  return announced;
}

void check_fits(int peer, const Announcement& announced, const View& into) {
  QUOIT_CHECK(announced.bytes == into.bytes(), TransportError, "rank ", peer, " sent ",
              announced.bytes, " bytes, this rank expected ", into.bytes(),
              ": both sides must pass tensors of the same size and dtype");
}

Task receive_by_host(Network& net, int peer, Announcement announced, View into) {
  Grant grant;
  grant.way = announced.bytes == into.bytes() ? Grant::Way::ByHost : Grant::Way::Refused;
  Transfer granted = net.send(peer, grant_tag(announced.number), raw_bytes(grant));
  co_await granted;
  check_fits(peer, announced, into);
  Transfer arrived = net.recv(peer, bytes_tag(announced.number), into.raw());
  co_await arrived;
}

}  // namespace quoit
