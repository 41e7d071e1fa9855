#pragma once
// A CUDA device as staging sees it: its primary context, two streams for copies, and page-locked
// memory that one call uses after another.
#include <array>
#include <memory>
#include <mutex>
#include <vector>

#include "core/types.h"
#include "transport/cuda_driver.h"

namespace quoit {

class CudaDevice {
 public:
  // The one whose memory that is; UsageError if it is none's. Devices are made at the first call
  // and stay.
  static CudaDevice& holding(CudaAddress address);

  // The current one of this thread, or the first.
  static CudaDevice& current();

  static CudaDevice& numbered(int number);

  CudaDevice(const CudaDriver& library, int ordinal);
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  // While it lives, the device's context is that of this thread, and what the thread does harms no
  // capture of a graph. Where there is no such context any more, the calls that need it say so.
  class Current {
   public:
    explicit Current(const CudaDevice& device);
    ~Current();
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;

   private:
    const CudaCalls& calls_;
    bool pushed_;
    int mode_ = kCudaCaptureModeRelaxed;  // from then on that of before
  };

  // Page-locked memory, and the points that copies from and to it have come to.
  struct Slots {
    static constexpr std::size_t kMost = 3;

    Slots(const CudaDevice& home, std::size_t size) : device(home), bytes(size) {}
    ~Slots();
    Slots(const Slots&) = delete;
    Slots& operator=(const Slots&) = delete;

    void allocate();

    // Whether no copy uses the memory any more.
    [[nodiscard]] bool idle() const;

    const CudaDevice& device;
    const std::size_t bytes;
    std::byte* memory = nullptr;
    CudaEvent called = nullptr;
    std::array<CudaEvent, kMost> arrived{};
    std::array<CudaEvent, kMost> carried{};
  };

  [[nodiscard]] std::unique_ptr<Slots> take(std::size_t bytes);

  // The memory is used again, and `keep` let go, when all copies are over.
  void give_back(std::unique_ptr<Slots> slots, std::shared_ptr<void> keep);

  // Puts a copy of these bytes, as they are now, into the stream: to memory of the device.
  void put(ConstBytes bytes, std::byte* to, CudaStream stream);

  // A stream of high priority, of those that were given back or a new one; streams are never
  // destroyed, as work of theirs may outlive those who used them.
  [[nodiscard]] CudaStream take_stream();
  void give_back(CudaStream stream);

  // Whether what is put into the stream now becomes part of a graph. Within Current.
  [[nodiscard]] bool is_capturing(CudaStream stream) const;

  // Whether all is over that the event stands for; throws what the device failed with.
  [[nodiscard]] bool reached(CudaEvent event) const;

  // For copies to the host, and for those back.
  [[nodiscard]] CudaStream in() const { return in_; }
  [[nodiscard]] CudaStream out() const { return out_; }

  const CudaDriver& driver;
  const int number;

 private:
  struct Left {
    std::unique_ptr<Slots> slots;
    std::shared_ptr<void> keep;
  };

  [[nodiscard]] std::vector<Left> sweep();

  CudaContext context_ = nullptr;
  CudaStream in_ = nullptr;
  CudaStream out_ = nullptr;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Slots>> free_;
  std::vector<CudaStream> streams_;  // that nobody uses
  std::vector<Left> left_;           // by calls that are over, to copies that may not be
};

}  // namespace quoit
