#include "transport/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <sstream>

#include "core/error.h"

namespace quoit {

SharedMemory::SharedMemory(int fd, std::size_t bytes) : fd_(fd), size_(bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    const int failure = errno;
    ::close(fd);
    throw UnavailableError(
        text("cannot map ", bytes, " bytes of shared memory: ", std::strerror(failure)));
  }
  data_ = static_cast<std::byte*>(memory);
  // Huge pages where the system has them for shared memory; no matter where it has not.
  ::madvise(memory, bytes, MADV_HUGEPAGE);
}

SharedMemory::~SharedMemory() {
  ::munmap(data_, size_);
  ::close(fd_);
}

std::shared_ptr<SharedMemory> SharedMemory::create(std::size_t bytes, const char* label) {
  const int fd = ::memfd_create(label, MFD_CLOEXEC);
  QUOIT_CHECK(fd >= 0, UnavailableError, "cannot create shared memory: ", std::strerror(errno));
  if (::ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    const int failure = errno;
    ::close(fd);
    throw UnavailableError(
        text("cannot size shared memory to ", bytes, " bytes: ", std::strerror(failure)));
  }
  return std::shared_ptr<SharedMemory>(new SharedMemory(fd, bytes));
}

std::shared_ptr<SharedMemory> SharedMemory::open(const std::string& name) {
  int pid = 0;
  int their_fd = 0;
  std::size_t bytes = 0;
  std::istringstream(name) >> pid >> their_fd >> bytes;
  const std::string path = text("/proc/", pid, "/fd/", their_fd);
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  QUOIT_CHECK(fd >= 0, UnavailableError, "cannot share memory with process ", pid, " through ",
              path, ": ", std::strerror(errno),
              ". The ranks of one host must run as the same user");
  return std::shared_ptr<SharedMemory>(new SharedMemory(fd, bytes));
}

std::string SharedMemory::name() const { return text(::getpid(), " ", fd_, " ", size_); }

}  // namespace quoit
