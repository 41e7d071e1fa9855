#include "streams.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>
#include <utility>
#include <vector>

namespace fake {
namespace {

constexpr int64_t kPool = 8;
constexpr unsigned char kPoison = 0xFF;
constexpr auto kExit = std::chrono::seconds(2);

std::atomic<long> delay_us{0};
std::atomic<int> capturing{0};

struct Device {
  std::mutex mutex;
  std::deque<Stream> streams;  // whose elements stay where they are
  int64_t turn = 0;
};

void close_all();

// Leaked, like the threads of the streams: both outlast every static object.
std::array<Device, kDevices>& devices() {
  static auto* all = [] {
    auto* made = new std::array<Device, kDevices>;
    for (int device = 0; device < kDevices; ++device) {
      for (int64_t id = 0; id <= kPool; ++id) (*made)[device].streams.emplace_back(device, id);
    }
    std::atexit(close_all);
    return made;
  }();
  return *all;
}

void close_all() {
  const auto end = std::chrono::steady_clock::now() + kExit;
  for (Device& device : devices()) {
    for (Stream& stream : device.streams) stream.close(end);
  }
}

// Free memory, by size.
struct Shelf {
  std::mutex mutex;
  std::multimap<size_t, void*> blocks;
};

Shelf& shelf() {
  static auto* one = new Shelf;
  return *one;
}

size_t rounded(size_t bytes) {
  size_t size = 512;
  while (size < bytes) size *= 2;
  return size;
}

void* take(size_t bytes) {
  {
    std::lock_guard lock(shelf().mutex);
    if (auto found = shelf().blocks.find(bytes); found != shelf().blocks.end()) {
      void* data = found->second;
      shelf().blocks.erase(found);
      return data;
    }
  }
  void* data = std::aligned_alloc(512, bytes);
  if (data == nullptr) throw std::bad_alloc();
  std::memset(data, kPoison, bytes);
  return data;
}

void put_back(void* data, size_t bytes) {
  std::memset(data, kPoison, bytes);
  std::lock_guard lock(shelf().mutex);
  shelf().blocks.emplace(bytes, data);
}

// Blocks that are in use.
struct BlockTable {
  std::mutex mutex;
  std::map<uintptr_t, Block*> blocks;
};

BlockTable& block_table() {
  static auto* one = new BlockTable;
  return *one;
}

struct PinnedTable {
  std::mutex mutex;
  std::map<uintptr_t, std::shared_ptr<Pinned>> blocks;
};

PinnedTable& pinned_table() {
  static auto* one = new PinnedTable;
  return *one;
}

}  // namespace

void Mark::reach() {
  std::lock_guard lock(mutex_);
  reached_ = true;
  when_ = std::chrono::steady_clock::now();
  changed_.notify_all();
}

void Mark::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return reached_; });
}

bool Mark::reached() {
  std::lock_guard lock(mutex_);
  return reached_;
}

std::chrono::steady_clock::time_point Mark::when() {
  std::lock_guard lock(mutex_);
  return when_;
}

void Stream::enqueue(std::function<void()> work) { push({std::move(work), false}); }

void Stream::push(Entry entry) {
  std::lock_guard lock(mutex_);
  if (!started_) {
    started_ = true;
    std::thread([this] { run(); }).detach();
  }
  queue_.push_back(std::move(entry));
  changed_.notify_all();
}

void Stream::enqueue_late(std::function<void()> work) {
  enqueue([work = std::move(work), pause = std::chrono::microseconds(delay_us)] {
    if (pause.count() > 0) std::this_thread::sleep_for(pause);
    work();
  });
}

void Stream::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return !queue_.empty(); });
    Entry entry = std::move(queue_.front());
    queue_.pop_front();
    running_ = true;
    const bool dropped = closed_ && !entry.always;
    lock.unlock();
    if (!dropped) entry.work();
    entry.work = nullptr;  // what it held goes before anybody hears that it has run
    lock.lock();
    running_ = false;
    changed_.notify_all();
  }
}

void Stream::enqueue_always(std::function<void()> work) { push({std::move(work), true}); }

std::shared_ptr<Mark> Stream::mark() {
  auto mark = std::make_shared<Mark>();
  enqueue_always([mark] { mark->reach(); });
  return mark;
}

void Stream::wait_for(std::shared_ptr<Mark> mark) {
  enqueue([mark = std::move(mark)] { mark->wait(); });
}

bool Stream::idle() {
  std::lock_guard lock(mutex_);
  return queue_.empty() && !running_;
}

void Stream::synchronize() {
  if (!idle()) mark()->wait();
}

void Stream::close(std::chrono::steady_clock::time_point end) {
  std::unique_lock lock(mutex_);
  closed_ = true;
  changed_.wait_until(lock, end, [this] { return !running_; });
}

Stream& stream(int device, int64_t id) {
  Device& home = devices().at(static_cast<size_t>(device));
  std::lock_guard lock(home.mutex);
  return home.streams.at(static_cast<size_t>(id));
}

Stream& new_stream(int device) {
  Device& home = devices().at(static_cast<size_t>(device));
  std::lock_guard lock(home.mutex);
  return home.streams.emplace_back(device, static_cast<int64_t>(home.streams.size()));
}

Stream& pool_stream(int device) {
  Device& home = devices().at(static_cast<size_t>(device));
  std::lock_guard lock(home.mutex);
  return home.streams.at(static_cast<size_t>(1 + home.turn++ % kPool));
}

void synchronize_device(int device) {
  std::vector<Stream*> all;
  {
    Device& home = devices().at(static_cast<size_t>(device));
    std::lock_guard lock(home.mutex);
    for (Stream& stream : home.streams) all.push_back(&stream);
  }
  for (Stream* stream : all) stream->synchronize();
}

int& current_device() {
  thread_local int device = 0;
  return device;
}

namespace {
Stream*& current(int device) {
  thread_local std::array<Stream*, kDevices> streams{};
  return streams.at(static_cast<size_t>(device));
}
}  // namespace

Stream& current_stream(int device) {
  Stream*& now = current(device);
  if (now == nullptr) now = &stream(device, 0);
  return *now;
}

void set_current_stream(Stream& stream) { current(stream.device) = &stream; }

Block* allocate(Stream& home, size_t bytes) {
  const size_t size = rounded(bytes);
  auto* block = new Block;
  block->data = take(size);
  block->bytes = size;
  block->home = &home;
  std::lock_guard lock(block_table().mutex);
  block_table().blocks.emplace(reinterpret_cast<uintptr_t>(block->data), block);
  return block;
}

Block* find_block(uintptr_t address, size_t bytes) {
  std::lock_guard lock(block_table().mutex);
  auto next = block_table().blocks.upper_bound(address);
  if (next == block_table().blocks.begin()) return nullptr;
  Block* block = std::prev(next)->second;
  const auto begin = reinterpret_cast<uintptr_t>(block->data);
  return address + bytes <= begin + block->bytes ? block : nullptr;
}

void note_user(Block& block, Stream& user) {
  std::lock_guard lock(block.mutex);
  if (&user != block.home) block.users.insert(&user);
}

void release(Block* block) {
  {
    std::lock_guard lock(block_table().mutex);
    block_table().blocks.erase(reinterpret_cast<uintptr_t>(block->data));
  }
  std::set<Stream*> users = std::move(block->users);
  users.insert(block->home);
  auto left = std::make_shared<std::atomic<size_t>>(users.size());
  for (Stream* user : users) {
    user->enqueue([left, block] {
      if (left->fetch_sub(1) > 1) return;
      put_back(block->data, block->bytes);
      delete block;
    });
  }
}

Pinned::Pinned(size_t bytes) : data(take(rounded(bytes))), bytes(rounded(bytes)) {}

Pinned::~Pinned() { put_back(data, bytes); }

void* allocate_pinned(size_t bytes) {
  auto block = std::make_shared<Pinned>(bytes);
  std::lock_guard lock(pinned_table().mutex);
  pinned_table().blocks.emplace(reinterpret_cast<uintptr_t>(block->data), block);
  return block->data;
}

void release_pinned(void* data) {
  std::shared_ptr<Pinned> last;  // gone after the lock
  std::lock_guard lock(pinned_table().mutex);
  auto found = pinned_table().blocks.find(reinterpret_cast<uintptr_t>(data));
  if (found == pinned_table().blocks.end()) return;
  last = std::move(found->second);
  pinned_table().blocks.erase(found);
}

std::shared_ptr<Pinned> find_pinned(const void* inside) {
  const auto address = reinterpret_cast<uintptr_t>(inside);
  std::lock_guard lock(pinned_table().mutex);
  auto next = pinned_table().blocks.upper_bound(address);
  if (next == pinned_table().blocks.begin()) return nullptr;
  auto& [begin, block] = *std::prev(next);
  return address < begin + block->bytes ? block : nullptr;
}

}  // namespace fake

extern "C" {

void fake_enqueue(void* stream, void (*call)(void*), void* argument) {
  static_cast<fake::Stream*>(stream)->enqueue([call, argument] { call(argument); });
}

void fake_set_delay_us(long microseconds) { fake::delay_us = microseconds; }
long fake_delay_us() { return fake::delay_us; }
void fake_set_capturing(int capturing) { fake::capturing = capturing; }
int fake_is_capturing() { return fake::capturing; }
int fake_device_count() { return fake::kDevices; }
}
