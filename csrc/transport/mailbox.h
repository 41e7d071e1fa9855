#pragma once
// Where messages from all transports of a group meet the receives that wait for them.
#include <list>
#include <vector>

#include "transport/transport.h"

namespace quoit {

// A message that is arriving. The transport writes its `size` bytes, then calls Mailbox::arrived.
struct Arrival {
  // Stores bytes that begin at `offset` of the message; drops them when the receive was cancelled.
  void write(std::size_t offset, ConstBytes bytes);

  int from = 0;
  Tag tag = 0;
  std::size_t size = 0;
  std::byte* into = nullptr;  // for libraries that write by themselves; others use write()
  std::shared_ptr<Transfer::State> receive;  // null while nobody asked for it
  Bytes landing;                             // where a late receive wants it; empty if `into` is it
  std::unique_ptr<std::byte[]> buffer;       // holds it when nobody asked before it came
  bool whole = false;                        // the receive gets the buffer
  bool direct = false;  // no buffer has been chosen, and the transport writes devices' memory
  bool held = false;    // the transport waits until it is wanted(), and then calls place()
  std::string spoiled;  // why it will never be whole
  bool complete = false;

  [[nodiscard]] bool wanted() const { return receive && !receive->closed; }
};

class Mailbox {
 public:
  // `from` may be kAnySource. Unless any size fits, the receive fails when the message has another
  // one than `into`.
  [[nodiscard]] Transfer post(int from, Tag tag, Bytes into, Fit fit = Fit::Exact);

  // A message begins to arrive: matches the oldest receive that fits it, or buffers it. Valid until
  // `arrived` is called with it. Throws std::bad_alloc when there is no memory for the buffer; it
  // is used up only as bytes come.
  // `direct`: the transport writes memory of devices, too, and can hold a message back, as it must
  // if it is `held`.
  [[nodiscard]] Arrival& begin(int from, Tag tag, std::size_t size, bool direct = false);

  // Says where a message goes that was held: into memory that waits for it, or a buffer.
  void place(Arrival& arrival);

  void arrived(Arrival& arrival);

  // begin() in two steps, for a transport that can let a message wait: matches it; and gives it
  // memory, where the receive wants it if that is there by now. What `have` bytes of it lie in its
  // buffer come along. Throws std::bad_alloc.
  [[nodiscard]] Arrival& expect(int from, Tag tag, std::size_t size, bool direct = false);
  void land(Arrival& arrival, std::size_t have);

  // In place of arrived(): the rest will not come, and its receive fails.
  void spoil(Arrival& arrival, std::string why);

  // A whole message at once.
  void deliver(int from, Tag tag, ConstBytes data);

 private:
  struct Posted {
    int from;
    Tag tag;
    Bytes into;
    Fit fit;
    std::shared_ptr<Transfer::State> receive;
  };

  void match(Arrival& arrival, const Posted& posted);
  void finish(std::list<Arrival>::iterator arrival);

  std::list<Posted> posted_;     // oldest first
  std::list<Arrival> arrivals_;  // in order of arrival, complete or not
};

}  // namespace quoit
