// The mailbox where messages meet receives into memory of devices, which the host must not write:
// what a library that writes it holds back, and what comes in memory of its own. Prints what
// failed; returns non-zero then.
#include <algorithm>
#include <string>
#include <vector>

#include "checks.h"
#include "transport/mailbox.h"

using namespace quoit;

namespace {

constexpr Tag kTag = 3;

// Memory that only a library may write, as this test does through Arrival::into.
struct Device {
  std::vector<std::byte> bytes = std::vector<std::byte>(8, std::byte{0x11});

  [[nodiscard]] Bytes raw() { return bytes; }
  [[nodiscard]] bool untouched() const { return all(0x11); }
  [[nodiscard]] bool written() const { return all(0x22); }

 private:
  [[nodiscard]] bool all(int value) const {
    return std::all_of(bytes.begin(), bytes.end(),
                       [&](std::byte one) { return one == static_cast<std::byte>(value); });
  }
};

// What MPI does with an arrival whose place is known.
void land(Mailbox& mailbox, Arrival& arrival) {
  std::fill_n(arrival.into, arrival.size, std::byte{0x22});
  mailbox.arrived(arrival);
}

bool is_whole(const Transfer& receive, std::size_t bytes) {
  const ConstBytes whole = receive.whole();
  return whole.data() != nullptr && whole.size() == bytes &&
         std::all_of(whole.begin(), whole.end(),
                     [](std::byte one) { return one == std::byte{0x22}; });
}

void it_goes_straight_where_it_is_waited_for() {
  Mailbox mailbox;
  Device device;
  Transfer receive = mailbox.post(1, kTag, device.raw(), Fit::Device);
  receive.open();
  Arrival& arrival = mailbox.begin(1, kTag, 8, /*direct=*/true);
  EXPECT(!arrival.held && arrival.into == device.raw().data(), "it must not be held");
  land(mailbox, arrival);
  EXPECT(receive.ready() && receive.result() == 1, "the receive is over");
  EXPECT(device.written() && receive.whole().data() == nullptr, "it is in the memory alone");
}

void it_is_held_until_the_memory_may_be_written() {
  Mailbox mailbox;
  Device device;
  Transfer receive = mailbox.post(kAnySource, kTag, device.raw(), Fit::Device);
  Arrival& arrival = mailbox.begin(1, kTag, 8, /*direct=*/true);
  EXPECT(arrival.held && !arrival.wanted(), "the memory may not be written yet");
  receive.open();
  EXPECT(arrival.held && arrival.wanted(), "now it may");
  mailbox.place(arrival);
  EXPECT(!arrival.held && arrival.into == device.raw().data(), "it goes there");
  land(mailbox, arrival);
  EXPECT(receive.ready() && receive.result() == 1 && device.written(), "it is there");
}

void a_collectives_message_is_held_until_it_is_asked_for() {
  Mailbox mailbox;
  Device device;
  Arrival& first = mailbox.begin(1, kDeviceTag, 8, /*direct=*/true);
  Arrival& second = mailbox.begin(1, kDeviceTag, 8, /*direct=*/true);
  EXPECT(first.held && !first.wanted() && second.held, "nobody asked");
  Transfer receive = mailbox.post(1, kDeviceTag, device.raw(), Fit::Device);
  EXPECT(!first.wanted(), "the memory may not be written yet");
  receive.open();
  EXPECT(first.wanted() && !second.wanted(), "in the order in which they came");
  mailbox.place(first);
  land(mailbox, first);
  EXPECT(receive.ready() && device.written(), "it is there");
}

void what_comes_first_has_memory_of_its_own() {
  Mailbox mailbox;
  Device device;
  for (const bool complete : {true, false}) {
    Arrival& arrival = mailbox.begin(1, kTag, 8, /*direct=*/true);
    EXPECT(!arrival.held, "a user's message is taken at once");
    if (complete) land(mailbox, arrival);
    Transfer receive = mailbox.post(1, kTag, device.raw(), Fit::Device);
    receive.open();
    if (!complete) land(mailbox, arrival);
    EXPECT(receive.ready() && is_whole(receive, 8), "it is handed over");
    EXPECT(device.untouched(), "the host does not write the device's memory");
  }
}

void what_cannot_write_devices_has_memory_of_its_own() {
  for (const bool open : {true, false}) {
    Mailbox mailbox;
    Device device;
    Transfer receive = mailbox.post(1, kTag, device.raw(), Fit::Device);
    if (open) receive.open();
    Arrival& arrival = mailbox.begin(1, kTag, 8);
    EXPECT(!arrival.held, "it cannot be");
    land(mailbox, arrival);
    EXPECT(receive.ready() && is_whole(receive, 8) && device.untouched(), "it is handed over");
  }
}

void nothing_is_held_in_the_end() {
  Mailbox mailbox;
  Device device;
  Transfer closed = mailbox.post(1, kTag, device.raw(), Fit::Device);
  Arrival& matched = mailbox.begin(1, kTag, 8, /*direct=*/true);
  mailbox.place(matched);
  land(mailbox, matched);
  EXPECT(closed.ready() && is_whole(closed, 8) && device.untouched(), "memory that was closed");
  Arrival& unasked = mailbox.begin(1, kDeviceTag, 8, /*direct=*/true);
  mailbox.place(unasked);
  land(mailbox, unasked);
  const Transfer late = mailbox.post(1, kDeviceTag, device.raw(), Fit::Device);
  EXPECT(is_whole(late, 8) && device.untouched(), "what nobody asked for");
}

void another_size_is_refused() {
  for (const bool early : {true, false}) {
    for (const bool direct : {true, false}) {
      for (const Tag tag : {kTag, kDeviceTag}) {
        Mailbox mailbox;
        Device device;
        Arrival* arrival = early ? &mailbox.begin(1, tag, 5, direct) : nullptr;
        Transfer receive = mailbox.post(1, tag, device.raw(), Fit::Device);
        receive.open();
        if (!early) arrival = &mailbox.begin(1, tag, 5, direct);
        if (arrival->held) {
          EXPECT(arrival->wanted(), "it is to be taken off the wire");
          mailbox.place(*arrival);
        }
        land(mailbox, *arrival);
        std::string said;
        try {
          receive.result();
        } catch (const TransportError& error) {
          said = error.what();
        }
        EXPECT(receive.ready() && said.starts_with("rank 1 sent 5 bytes, this rank expected 8"),
               "said '", said, "'");
        EXPECT(device.untouched(), "nothing is written");
      }
    }
  }
}

}  // namespace

int main() {
  it_goes_straight_where_it_is_waited_for();
  it_is_held_until_the_memory_may_be_written();
  a_collectives_message_is_held_until_it_is_asked_for();
  what_comes_first_has_memory_of_its_own();
  what_cannot_write_devices_has_memory_of_its_own();
  nothing_is_held_in_the_end();
  another_size_is_refused();
  return test::verdict();
}
