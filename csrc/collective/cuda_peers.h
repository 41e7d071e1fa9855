#pragma once
// Memory of a CUDA device that processes of one host share, by CUDA IPC, and marks: events that
// they share. Memory that others use is never a user's: torch's allocator may not own it for long.
#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "collective/cuda_device.h"
#include "collective/device_order.h"

namespace quoit {

inline constexpr std::size_t kCudaMarks = 4;

// What another process, or another rank of this one, needs to use a CudaScratch. Plain bytes.
struct CudaOffer {
  int process = 0;
  int marks = 0;
  unsigned long long start_time = 0;  // of the process
  std::uint64_t address = 0;          // of the memory, within the process; 0: there is none
  std::array<std::uint64_t, kCudaMarks> events{};
  CudaUuid device{};
  CudaIpcHandle memory{};
  std::array<CudaIpcHandle, kCudaMarks> handles{};
};

// Of this rank, for others. Freed when it goes: see retire().
class CudaScratch {
 public:
  // `bytes` may be 0. Throws TransportError in CUDA's words, also where it has no IPC.
  CudaScratch(CudaDevice& device, std::size_t bytes);
  ~CudaScratch();
  CudaScratch(const CudaScratch&) = delete;
  CudaScratch& operator=(const CudaScratch&) = delete;

  [[nodiscard]] const CudaOffer& offer() const { return offer_; }
  [[nodiscard]] std::byte* data() const { return reinterpret_cast<std::byte*>(memory_); }
  [[nodiscard]] CudaEvent mark(std::size_t i) const { return events_[i]; }

 private:
  void allocate(std::size_t bytes);
  void free();

  CudaDevice& device_;
  CudaAddress memory_ = 0;
  std::array<CudaEvent, kCudaMarks> events_{};
  CudaOffer offer_;
};

// Another rank's.
class CudaWindow {
 public:
  // Throws TransportError where it cannot be opened, UnavailableError where the devices do not
  // reach each other.
  CudaWindow(CudaDevice& device, const CudaOffer& offer);
  ~CudaWindow();
  CudaWindow(const CudaWindow&) = delete;
  CudaWindow& operator=(const CudaWindow&) = delete;

  [[nodiscard]] std::byte* data() const { return reinterpret_cast<std::byte*>(memory_); }
  [[nodiscard]] CudaEvent mark(std::size_t i) const { return events_[i]; }

 private:
  void open(const CudaOffer& offer);
  void close();

  CudaDevice& device_;
  const bool own_process_;
  CudaAddress memory_ = 0;
  std::array<CudaEvent, kCudaMarks> events_{};
};

// What a group leaves behind on a device. CUDA does not define what happens when memory goes that
// another process has open, or that a kernel still uses, and the end of a group must not wait for
// either. So this is looked through when others are made or left: the windows are closed when the
// device has come to all that the streams hold now, and then `closed` is called; the scratches go
// when `unused` says that nobody has them open. What is left at the end of the process is CUDA's
// to take back.
struct CudaLegacy {
  std::vector<std::unique_ptr<DeviceStream>> streams;
  std::vector<std::unique_ptr<CudaWindow>> windows;
  std::vector<std::unique_ptr<CudaScratch>> scratches;
  std::function<void()> closed;
  std::function<bool()> unused;
};
void retire(CudaDevice& device, CudaLegacy legacy);

// Looks through what earlier groups have left behind.
void sweep_legacies();

}  // namespace quoit
