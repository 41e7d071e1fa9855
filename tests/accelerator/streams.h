#pragma once
// What the test accelerator "fake" is made of: streams, points of streams, and memory. A stream is
// a thread of the host that runs what is queued on it, in order. Nothing here knows torch.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>

namespace fake {

constexpr int kDevices = 2;

// A point of a stream's queue: what an event records, and others wait for.
class Mark {
 public:
  void reach();
  void wait();
  bool reached();
  std::chrono::steady_clock::time_point when();  // of a mark that has been reached

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool reached_ = false;
  std::chrono::steady_clock::time_point when_;
};

class Stream {
 public:
  Stream(int device, int64_t id) : device(device), id(id) {}

  void enqueue(std::function<void()> work);         // dropped once the process exits
  void enqueue_late(std::function<void()> work);    // after the delay that fake_set_delay_us said
  void enqueue_always(std::function<void()> work);  // even once the process exits
  std::shared_ptr<Mark> mark();
  void wait_for(std::shared_ptr<Mark> mark);  // what is queued from now on runs after it
  bool idle();
  void synchronize();
  // At the end of the process: what torch queued is dropped, since its static objects go away;
  // marks are still reached. Waits for what runs until then.
  void close(std::chrono::steady_clock::time_point end);

  const int device;
  const int64_t id;

 private:
  struct Entry {
    std::function<void()> work;
    bool always;
  };

  void push(Entry entry);
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Entry> queue_;
  bool started_ = false;
  bool running_ = false;
  bool closed_ = false;
};

// Streams live as long as the process. Id 0 is the default stream of its device.
Stream& stream(int device, int64_t id);
Stream& new_stream(int device);
Stream& pool_stream(int device);  // of a few, in turn
void synchronize_device(int device);

// Of this thread.
int& current_device();
Stream& current_stream(int device);
void set_current_stream(Stream& stream);

// Device memory. What is freed is overwritten with 0xFF when its stream and all streams that were
// noted as users have come to that point, and only then given out again; it is never unmapped, so
// that work which comes too late reads wrong numbers and does not crash.
struct Block {
  void* data;
  size_t bytes;
  Stream* home;
  std::mutex mutex;
  std::set<Stream*> users;
};
Block* allocate(Stream& home, size_t bytes);
void note_user(Block& block, Stream& user);
void release(Block* block);
Block* find_block(uintptr_t address, size_t bytes);  // which has them all; null: none

// Pinned host memory. A block is given out again once it is freed and no copy holds it.
struct Pinned {
  explicit Pinned(size_t bytes);
  ~Pinned();
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

  void* data;
  size_t bytes;
};
void* allocate_pinned(size_t bytes);
void release_pinned(void* data);
std::shared_ptr<Pinned> find_pinned(const void* inside);  // null: not pinned

}  // namespace fake

extern "C" {
// stream: what getStreamNativeHandle gives. call runs on the stream's thread.
void fake_enqueue(void* stream, void (*call)(void*), void* argument);
// Each copy and each work of torch's operators that is queued from now on first sleeps so long.
void fake_set_delay_us(long microseconds);
long fake_delay_us();
void fake_set_capturing(int capturing);
int fake_is_capturing();
int fake_device_count();
}
