#include "transport/mailbox.h"

#include <algorithm>
#include <new>
#include <utility>

#include "core/copy.h"

namespace quoit {
namespace {

// Whether a receive with that tag takes such a message.
bool takes(Tag receive, Tag message) {
  return message == receive || (receive >= 0 && message == (receive | kAnnounced));
}

}  // namespace

void Arrival::write(std::size_t offset, ConstBytes bytes) {
  const bool into_buffer = buffer != nullptr;
  if (bytes.empty() || (!into_buffer && receive->cancelled)) return;
  copy_bytes(bytes.data(), into + offset, bytes.size());
}

Transfer Mailbox::post(int from, Tag tag, Bytes into, Fit fit) {
  const Posted posted{from, tag, into, fit, std::make_shared<Transfer::State>()};
  posted.receive->peer = from;
  posted.receive->closed = fit == Fit::Device;
  for (auto arrival = arrivals_.begin(); arrival != arrivals_.end(); ++arrival) {
    const bool fits = takes(tag, arrival->tag) && (from == kAnySource || from == arrival->from);
    if (!fits || arrival->receive) continue;
    match(*arrival, posted);
    if (arrival->complete) finish(arrival);
    return Transfer(posted.receive);
  }
  posted_.push_back(posted);
  return Transfer(posted.receive);
}

Arrival& Mailbox::expect(int from, Tag tag, std::size_t size, bool direct) {
  Arrival& arrival = arrivals_.emplace_back();
  arrival.from = from;
  arrival.tag = tag;
  arrival.size = size;
  arrival.direct = direct;
  for (auto posted = posted_.begin(); posted != posted_.end();) {
    if (posted->receive->cancelled) {
      posted = posted_.erase(posted);
      continue;
    }
    if (takes(posted->tag, tag) && (posted->from == kAnySource || posted->from == from)) {
      match(arrival, *posted);
      posted_.erase(posted);
      break;
    }
    ++posted;
  }
  return arrival;
}

void Mailbox::land(Arrival& arrival, std::size_t have) {
  const bool wanted = arrival.receive && arrival.receive->error.empty();
  if (wanted && arrival.size <= arrival.landing.size()) {
    arrival.into = std::exchange(arrival.landing, {}).data();
    if (have > 0) copy_bytes(arrival.buffer.get(), arrival.into, have);
    arrival.buffer.reset();
  } else if (arrival.into == nullptr) {
    arrival.buffer.reset(new (std::nothrow) std::byte[arrival.size]);
    if (!arrival.buffer) throw std::bad_alloc();
    arrival.into = arrival.buffer.get();
  }
}

void Mailbox::place(Arrival& arrival) {
  arrival.held = false;
  if (arrival.receive && arrival.receive->closed) {
    arrival.whole = arrival.receive->error.empty();
    arrival.landing = {};
  }
  land(arrival, 0);
  arrival.direct = arrival.buffer == nullptr;
}

Arrival& Mailbox::begin(int from, Tag tag, std::size_t size, bool direct) {
  Arrival& arrival = expect(from, tag, size, direct);
  arrival.held = direct && (arrival.receive ? arrival.receive->closed : tag == kDeviceTag);
  if (arrival.held) return arrival;
  try {
    place(arrival);
  } catch (const std::bad_alloc&) {
    arrivals_.pop_back();
    throw;
  }
  return arrival;
}

void Mailbox::arrived(Arrival& arrival) {
  arrival.complete = true;
  if (!arrival.receive) return;
  for (auto it = arrivals_.begin(); it != arrivals_.end(); ++it)
    if (&*it == &arrival) return finish(it);
}

void Mailbox::spoil(Arrival& arrival, std::string why) {
  arrival.spoiled = std::move(why);
  if (arrival.receive) arrival.receive->error = arrival.spoiled;
  arrived(arrival);
}

void Mailbox::deliver(int from, Tag tag, ConstBytes data) {
  Arrival& arrival = begin(from, tag, data.size());
  arrival.write(0, data);
  arrived(arrival);
}

// A message of the wrong size is still taken off the wire, into the buffer, and then dropped.
void Mailbox::match(Arrival& arrival, const Posted& posted) {
  arrival.receive = posted.receive;
  arrival.receive->peer = arrival.from;
  arrival.receive->size = arrival.size;
  arrival.receive->announced = arrival.tag != posted.tag;
  arrival.receive->error = arrival.spoiled;
  arrival.whole = posted.fit == Fit::Whole || arrival.receive->announced;
  if (arrival.whole) return;
  if (posted.fit != Fit::Any && arrival.size != posted.into.size()) {
    arrival.receive->error =
        text("rank ", arrival.from, " sent ", arrival.size, " bytes, this rank expected ",
             posted.into.size(), ": both sides must pass tensors of the same size and dtype");
    return;
  }
  arrival.whole = posted.fit == Fit::Device && !arrival.direct;
  if (!arrival.whole) arrival.landing = posted.into;
}

void Mailbox::finish(std::list<Arrival>::iterator arrival) {
  const std::size_t kept = std::min(arrival->size, arrival->landing.size());
  if (kept > 0 && arrival->receive->error.empty() && !arrival->receive->cancelled)
    copy_bytes(arrival->buffer.get(), arrival->landing.data(), kept);
  if (arrival->whole) arrival->receive->whole = std::move(arrival->buffer);
  arrival->receive->complete();
  arrivals_.erase(arrival);
}

}  // namespace quoit
