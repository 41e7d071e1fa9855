// The TCP transport by itself: messages of all sizes over several streams, cancelled ones, ranks
// that die or leave, and strangers at the port. Two transports of one process talk over loopback.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "core/interfaces.h"
#include "transport/tcp.h"
#include "world.h"

using namespace quoit;

namespace {

constexpr Seconds kPatience{20};

TcpOptions on_loopback() {
  TcpOptions options;
  options.interfaces = "lo";
  options.patience = Seconds{1};
  return options;
}

// One rank of a group whose ranks are objects of this thread.
struct Rank {
  explicit Rank(int number)
      : transport(std::make_unique<TcpTransport>(on_loopback(), number, bell, mailbox)) {}
  Bell bell;
  Mailbox mailbox;
  std::unique_ptr<TcpTransport> transport;
};

// Ranks find each other at `address`, or at all addresses of the loopback interface.
std::vector<std::unique_ptr<Rank>> group(int size, const std::string& address = {}) {
  std::vector<std::unique_ptr<Rank>> ranks;
  std::vector<TcpEndpoint> endpoints;
  std::vector<std::string> hosts{"alpha", "beta", "gamma"};
  hosts.resize(static_cast<std::size_t>(std::max(size, 3)), "another");
  for (int r = 0; r < size; ++r) {
    ranks.push_back(std::make_unique<Rank>(r));
    // By way of text, as ranks of different processes tell each other.
    endpoints.push_back(TcpEndpoint::read(ranks.back()->transport->endpoint().written()));
    if (!address.empty()) endpoints.back().addresses = {address};
  }
  for (const auto& rank : ranks) rank->transport->meet(endpoints, hosts);
  return ranks;
}

template <class Condition>
void progress_until(const std::vector<std::unique_ptr<Rank>>& ranks, Condition holds,
                    const char* what) {
  const Deadline deadline = Deadline::after(kPatience);
  while (!holds()) {
    EXPECT(!deadline.passed(), what, " did not come about");
    for (const auto& rank : ranks)
      if (rank->transport) rank->transport->progress();
  }
}

std::vector<std::byte> pattern(std::size_t bytes, unsigned seed) {
  std::vector<std::byte> data(bytes);
  for (std::size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i * 7 + i / 253 + seed);
  return data;
}

void messages_arrive_whole_and_in_order() {
  const auto ranks = group(2);
  std::mt19937 random(7);
  const std::size_t sizes[] = {0, 1, 31, 65'535, 65'536, 65'537, 1'000'000, 5'000'000};
  std::vector<std::vector<std::byte>> sent, received;
  std::vector<Transfer> transfers;
  for (unsigned i = 0; i < 120; ++i) {
    sent.push_back(pattern(sizes[random() % std::size(sizes)], i));
    received.emplace_back(sent.back().size(), std::byte{0xee});
  }
  // Half of the receives are there before the message, half come late.
  for (unsigned i = 0; i < 60; ++i)
    transfers.push_back(ranks[1]->mailbox.post(i % 3 == 0 ? kAnySource : 0, i % 2, received[i]));
  for (unsigned i = 0; i < 120; ++i)
    transfers.push_back(ranks[0]->transport->send(1, i % 2, sent[i]));
  for (int i = 0; i < 50; ++i)
    for (const auto& rank : ranks) rank->transport->progress();
  for (unsigned i = 60; i < 120; ++i)
    transfers.push_back(ranks[1]->mailbox.post(0, i % 2, received[i]));
  for (Transfer& transfer : transfers) {
    progress_until(ranks, [&] { return transfer.ready(); }, "a transfer");
    transfer.result();
  }
  for (unsigned i = 0; i < 120; ++i)
    EXPECT(sent[i] == received[i], "message ", i, " of ", sent[i].size(), " bytes differs");
}

void either_family_of_addresses_works() {
  for (const Interface& one : reachable(interfaces(), "lo")) {  // ::1 where the host has IPv6
    const auto ranks = group(2, one.address);
    const auto sent = pattern(100'000, 3);
    std::vector<std::byte> received(sent.size());
    Transfer receive = ranks[1]->mailbox.post(0, 0, received);
    const Transfer send = ranks[0]->transport->send(1, 0, sent);
    progress_until(ranks, [&] { return receive.ready(); }, one.address.c_str());
    receive.result();
    EXPECT(sent == received, "a message to ", one.address, " differs");
    std::printf("by way of %s: ok\n", one.address.c_str());
  }
}

void cancelled_memory_is_left_alone() {
  const auto ranks = group(2);
  constexpr std::size_t kLong = 30'000'000;
  auto out = pattern(kLong, 1);
  std::vector<std::byte> in(kLong, std::byte{0xee});
  {
    const Transfer receive = ranks[1]->mailbox.post(0, 0, in);
    const Transfer send = ranks[0]->transport->send(1, 0, out);
    progress_until(ranks, [&] { return in[0] == out[0]; }, "the first byte");
  }
  std::fill(in.begin(), in.end(), std::byte{0xaa});
  std::fill(out.begin(), out.end(), std::byte{0xbb});
  // What follows is whole, on the same streams.
  const auto next = pattern(3'000'000, 2);
  std::vector<std::byte> into(next.size());
  Transfer receive = ranks[1]->mailbox.post(0, 0, into);
  Transfer send = ranks[0]->transport->send(1, 0, next);
  progress_until(ranks, [&] { return receive.ready() && send.ready(); }, "the next message");
  receive.result();
  EXPECT(into == next, "the message after a cancelled one differs");
  for (const std::byte byte : in) EXPECT(byte == std::byte{0xaa}, "cancelled memory was written");
}

void a_rank_that_leaves_is_told_from_one_that_dies() {
  auto ranks = group(3);
  std::byte one{1}, into{};
  for (const int other : {1, 2}) {
    Transfer send = ranks[static_cast<std::size_t>(other)]->transport->send(0, 0, {&one, 1});
    Transfer receive = ranks[0]->mailbox.post(other, 0, {&into, 1});
    ranks[0]->transport->expect(other);
    progress_until(ranks, [&] { return receive.ready(); }, "a byte");
  }
  EXPECT(!ranks[0]->transport->departed(1) && !ranks[0]->transport->failure(), "all are there");
  ranks[1]->transport.reset();
  progress_until(ranks, [&] { return ranks[0]->transport->departed(1).has_value(); }, "a farewell");
  EXPECT(ranks[0]->transport->departed(1)->find("rank 1 left the group") == 0, "the reason");
  EXPECT(!ranks[0]->transport->failure(), "who leaves breaks nothing");
  const Transfer late = ranks[0]->transport->send(1, 0, {&one, 1});
  EXPECT(late.awaits(1), "a send to a rank that left does not succeed");
}

void whoever_cannot_be_reached_is_named() {
  Rank rank(0);
  TcpEndpoint nobody;
  nobody.port = 9;  // discard: nobody listens on it
  nobody.addresses = {"127.0.0.1", "::1"};
  rank.transport->meet({rank.transport->endpoint(), nobody}, {"alpha", "beta"});
  std::byte one{1};
  Transfer send = rank.transport->send(1, 0, {&one, 1});
  const Deadline deadline = Deadline::after(kPatience);
  while (!send.ready() && !deadline.passed()) rank.transport->progress();
  try {
    send.result();
    EXPECT(false, "nobody was reached");
  } catch (const TransportError& error) {
    const std::string said = error.what();
    EXPECT(said.find("rank 1 on beta cannot be reached over TCP (127.0.0.1 port 9: Connection "
                     "refused") == 0,
           said);
    EXPECT(said.find("QUOIT_IFACE") != std::string::npos, said);
  }
}

Socket caller(std::uint16_t port) {
  Socket socket = begin_connect("127.0.0.1", port);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return socket;
}

bool closed_by_peer(const Socket& socket) {
  std::byte byte{};
  const IoSlice into{&byte, 1};
  const Deadline deadline = Deadline::after(kPatience);
  while (!deadline.passed()) {
    if (read_some(socket, {&into, 1}) < 0) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

void strangers_are_turned_away() {
  const auto ranks = group(2);
  const std::uint16_t port = ranks[0]->transport->endpoint().port;
  // Garbage, a hello for nobody, silence by many.
  std::array<std::byte, 512> garbage;
  garbage.fill(std::byte{'G'});
  const Socket vandal = caller(port);
  const IoSlice rubbish{garbage.data(), garbage.size()};
  EXPECT(write_some(vandal, {&rubbish, 1}) > 0, "the vandal speaks");
  EXPECT(closed_by_peer(vandal), "garbage is answered by closing");
  TcpHello hello;
  const Socket lost = caller(port);
  const IoSlice said{&hello, sizeof hello};
  EXPECT(write_some(lost, {&said, 1}) > 0, "the lost one speaks");
  EXPECT(closed_by_peer(lost), "a hello for nobody is answered by closing");
  std::vector<Socket> silent;
  for (std::size_t i = 0; i < Doorman::kMostCallers + 20; ++i)
    silent.push_back(begin_connect("127.0.0.1", port));
  // Someone who knows the token, but then talks nonsense: that peer is lost, with a reason.
  TcpHello liar;
  liar.token = ranks[0]->transport->endpoint().token;
  liar.from = 1;
  const Socket traitor = caller(port);
  const IoSlice greeting{&liar, sizeof liar};
  EXPECT(write_some(traitor, {&greeting, 1}) > 0, "the traitor greets");
  EXPECT(write_some(traitor, {&rubbish, 1}) > 0, "the traitor speaks");
  progress_until(ranks, [&] { return ranks[0]->transport->failure().has_value(); }, "a failure");
  EXPECT(ranks[0]->transport->failure()->find("rank 1 on beta sent what is no frame") == 0,
         *ranks[0]->transport->failure());
}

// A peer that knows the token and writes frames at random, over several streams: it is lost, or
// waits for ever; whoever listens goes on.
void random_frames_do_no_harm() {
  int lost = 0;
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    const auto ranks = group(2);
    TcpTransport& listener = *ranks[0]->transport;
    std::vector<std::byte> asked(100);
    const Transfer receive = ranks[0]->mailbox.post(1, 0, asked);
    TcpHello hello;
    hello.token = listener.endpoint().token;
    hello.from = 1;
    std::vector<Socket> streams;
    for (hello.stream = 0; hello.stream < 3; ++hello.stream) {
      streams.push_back(caller(listener.endpoint().port));
      EXPECT(write_object(streams.back(), hello), "it greets");
    }
    const auto noise = pattern(70'000, seed);
    const std::uint64_t lengths[] = {
        0, 1, 10, 100, 70'000, std::uint64_t{1} << 45, ~std::uint64_t{0}};
    std::uint64_t announced = 0;
    for (int i = 0; i < 40; ++i) {
      TcpFrame frame{};
      const auto kind = random() % 16;
      frame.kind = kind < 7    ? FrameKind::Message
                   : kind < 15 ? FrameKind::Piece
                               : FrameKind{static_cast<std::uint32_t>(random())};
      // Mostly what could be, so that many frames are taken before the first that is not.
      frame.id = frame.kind == FrameKind::Message ? announced : random() % (announced + 1);
      if (random() % 20 == 0) frame.id = random();
      frame.at = lengths[random() % (random() % 8 == 0 ? 7 : 5)];
      frame.length = static_cast<std::uint32_t>(
          std::min(lengths[random() % (random() % 8 == 0 ? 7 : 5)], frame.at));
      frame.tag = static_cast<Tag>(random() % 3);
      announced += frame.kind == FrameKind::Message;
      Socket& stream = streams[frame.kind == FrameKind::Message ? 0 : random() % streams.size()];
      const IoSlice slices[] = {{reinterpret_cast<std::byte*>(&frame), sizeof frame},
                                {const_cast<std::byte*>(noise.data()),
                                 std::min<std::size_t>(frame.length, noise.size())}};
      static_cast<void>(write_some(stream, slices));  // the other side may have closed it
      listener.progress();
    }
    for (int i = 0; i < 50; ++i) listener.progress();
    streams.clear();  // which alone is the end of a peer
    progress_until(ranks, [&] { return listener.failure().has_value(); }, "the end of the peer");
    const std::string said = *listener.failure();
    EXPECT(said.find("rank 1 on beta ") == 0, said);
    lost += said.find("sent") != std::string::npos || said.find("announced") != std::string::npos;
  }
  EXPECT(lost > 20, "frames that could not be were found in ", lost, " runs only");
  std::printf("random frames: %d of 60 peers were lost for them\n", lost);
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    ++count;
  return count;
}

void connections_are_made_when_they_are_needed() {
  const auto ranks = group(12);
  const std::size_t before = open_descriptors();
  std::byte one{1}, into{};
  Transfer receive = ranks[1]->mailbox.post(0, 0, {&into, 1});
  const Transfer send = ranks[0]->transport->send(1, 0, {&one, 1});
  progress_until(ranks, [&] { return receive.ready(); }, "a byte");
  const std::size_t after = open_descriptors();
  EXPECT(after == before + 2, after - before,
         " descriptors for one connection, both its ends here");
}

void connections_are_kept_alive() {
  const Listener listener = listen_on(0, 0);
  const Socket socket = begin_connect("127.0.0.1", listener.port);
  const auto option = [&](int level, int name) {
    int value = 0;
    socklen_t size = sizeof value;
    EXPECT(::getsockopt(socket.fd(), level, name, &value, &size) == 0, "getsockopt");
    return value;
  };
  EXPECT(option(SOL_SOCKET, SO_KEEPALIVE) == 1, "SO_KEEPALIVE");
  const int seconds = option(IPPROTO_TCP, TCP_KEEPIDLE) +
                      option(IPPROTO_TCP, TCP_KEEPINTVL) * option(IPPROTO_TCP, TCP_KEEPCNT);
  EXPECT(seconds <= 30, "a host that vanished is noticed after ", seconds, " s");
}

void a_peer_that_dies_is_named() {
  const auto ranks = group(2);
  TcpHello hello;
  hello.token = ranks[0]->transport->endpoint().token;
  hello.from = 1;
  Socket peer = caller(ranks[0]->transport->endpoint().port);
  const IoSlice greeting{&hello, sizeof hello};
  EXPECT(write_some(peer, {&greeting, 1}) > 0, "it greets");
  // Half a message, then nothing.
  TcpFrame frame{FrameKind::Message, 100, 0, 100, 0};
  const IoSlice half{&frame, sizeof frame};
  EXPECT(write_some(peer, {&half, 1}) > 0, "it begins a message");
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  for (int i = 0; i < 100; ++i) ranks[0]->transport->progress();
  peer.close();
  progress_until(ranks, [&] { return ranks[0]->transport->failure().has_value(); }, "a failure");
  EXPECT(ranks[0]->transport->failure()->find("rank 1 on beta died") == 0,
         *ranks[0]->transport->failure());
}

template <class Body>
void throws(Body body, const std::string& words) {
  try {
    body();
    EXPECT(false, "nothing was thrown; expected ", words);
  } catch (const Error& error) {
    EXPECT(std::string(error.what()).find(words) != std::string::npos, error.what());
  }
}

void ports_are_chosen_and_checked() {
  EXPECT((port_range("") == std::pair<std::uint16_t, std::uint16_t>(0, 0)), "any port");
  EXPECT((port_range("20000-20100") == std::pair<std::uint16_t, std::uint16_t>(20000, 20100)), "");
  EXPECT((port_range("4711") == std::pair<std::uint16_t, std::uint16_t>(4711, 4711)), "");
  for (const char* wrong : {"x", "1-", "-2", "0-5", "9-8", "1-70000", "1 - 2"})
    throws([wrong] { port_range(wrong); }, "is no range of ports");
  const Listener taken = listen_on(0, 0);
  throws([&] { listen_on(taken.port, taken.port); }, "are taken: give QUOIT_PORTS a wider range");
  for (const char* wrong : {"", "80", "80 zz", "0 00112233445566778899aabbccddeeff 10.0.0.1"})
    throws([wrong] { TcpEndpoint::read(wrong); }, "is no TCP endpoint");
}

}  // namespace

int main() {
  messages_arrive_whole_and_in_order();
  either_family_of_addresses_works();
  cancelled_memory_is_left_alone();
  a_rank_that_leaves_is_told_from_one_that_dies();
  whoever_cannot_be_reached_is_named();
  strangers_are_turned_away();
  random_frames_do_no_harm();
  connections_are_made_when_they_are_needed();
  connections_are_kept_alive();
  a_peer_that_dies_is_named();
  ports_are_chosen_and_checked();
  std::printf("ok\n");
}
