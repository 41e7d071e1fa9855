#pragma once
// The loaded MPI library as its users inside csrc/transport see it.
#include <sys/types.h>

#include <atomic>
#include <string>
#include <vector>

#include "transport/mpi.h"
#include "transport/mpi_abi.h"

namespace quoit {

// MpiLibrary for one family. Calls may come from several threads if thread_multiple().
template <class Abi>
class LoadedMpi final : public MpiLibrary {
 public:
  using Calls = MpiCalls<Abi>;

  // Initialises MPI if nobody did. `path` is for messages.
  LoadedMpi(const MpiLookup& find, const MpiExtensions& extensions, std::string path);

  [[nodiscard]] int world_rank() const override { return world_rank_; }
  [[nodiscard]] int world_size() const override { return world_size_; }
  [[nodiscard]] bool thread_multiple() const override { return thread_multiple_; }
  [[nodiscard]] std::string version() const override { return version_; }
  [[nodiscard]] bool takes_device_memory() const override { return takes_device_memory_; }
  [[nodiscard]] std::vector<std::string> all_gather_strings(const std::string& mine,
                                                            Deadline deadline) override;
  void finalize() override;

  [[nodiscard]] const Calls& calls() const { return calls_; }
  [[nodiscard]] int highest_tag() const { return highest_tag_; }

  // Whether MPI may be called: not in a child of fork(), not before MPI_Init, not after
  // MPI_Finalize.
  [[nodiscard]] bool alive() const;

  // Whether MPI was finalised, by whomever. Cheap.
  [[nodiscard]] bool over() const;

  // Something was left in flight: keeps finalize() from waiting for it.
  void abandon() { abandoned_ = true; }

  // Calls one function and throws TransportError with MPI's own words when it fails.
  template <class... Params, class... Args>
  void must(const MpiCall<Params...>& call, Args... args) const {
    const int code = call(args...);
    QUOIT_CHECK(code == 0, TransportError, call.name(), ": ", error_text(code));
  }
  [[nodiscard]] std::string error_text(int code) const;

  // While it lives, errors on MPI_COMM_WORLD are returned, whatever its owner prefers: the default
  // would abort the process.
  class ErrorsReturn {
   public:
    explicit ErrorsReturn(const LoadedMpi& mpi);
    ~ErrorsReturn();
    ErrorsReturn(const ErrorsReturn&) = delete;
    ErrorsReturn& operator=(const ErrorsReturn&) = delete;

   private:
    const Calls& calls_;
    typename Abi::Errhandler before_;
  };

 private:
  void initialise();
  void wait(typename Abi::Request& request, Deadline deadline);

  Calls calls_;
  std::string path_;
  pid_t owner_;
  std::string version_;
  bool initialised_here_ = false;
  std::atomic<bool> abandoned_{false};
  int world_rank_ = 0;
  int world_size_ = 1;
  bool thread_multiple_ = false;
  int highest_tag_ = 0;
  bool takes_device_memory_ = false;
};

}  // namespace quoit
