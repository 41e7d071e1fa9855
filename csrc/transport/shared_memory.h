#pragma once
#include <cstddef>
#include <memory>
#include <string>

namespace quoit {

// Memory that processes of one host share. It is anonymous (memfd): no file system entry exists at
// any time, so nothing can be left behind, and the size of /dev/shm does not matter. Pages cost
// nothing until they are touched.
class SharedMemory {
 public:
  // Zeroed. `label` shows in /proc/PID/maps.
  static std::shared_ptr<SharedMemory> create(std::size_t bytes, const char* label);

  // Maps what another process created, by the name() it sent. The creator must still hold it.
  // Throws UnavailableError when the kernel does not let us.
  static std::shared_ptr<SharedMemory> open(const std::string& name);

  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }

  [[nodiscard]] int descriptor() const { return fd_; }

  // For open() in any process of this host and user.
  [[nodiscard]] std::string name() const;

 private:
  SharedMemory(int fd, std::size_t bytes);

  int fd_;
  std::size_t size_;
  std::byte* data_;
};

}  // namespace quoit
