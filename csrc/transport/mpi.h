#pragma once
// MPI, loaded at run time: one build of Quoit serves every mpirun and needs no MPI to be built.
#include <memory>
#include <string>
#include <vector>

#include "core/clock.h"
#include "transport/mailbox.h"

namespace quoit {

// The MPI library of this process; there can be only one. It is never unloaded, so the reference
// stays good until the process ends. Shares MPI with mpi4py, whichever of the two comes first.
class MpiLibrary {
 public:
  // Loads the libmpi at `path` (a file, or a name the dynamic linker can find) and initialises MPI
  // with MPI_THREAD_MULTIPLE, unless somebody did already. An empty path means the libmpi that this
  // process has loaded. `expected_size` is how many ranks the launcher says it started; 0: unknown.
  // Called again it returns the same library. Throws UnavailableError when there is none, when it
  // is not of the launcher's family or when MPI is over; UsageError when another one is loaded.
  static MpiLibrary& load(const std::string& path, int expected_size = 0);

  // The library that load() returned before, or null.
  static MpiLibrary* loaded();

  virtual ~MpiLibrary() = default;

  [[nodiscard]] virtual int world_rank() const = 0;
  [[nodiscard]] virtual int world_size() const = 0;

  // Whether several threads may call MPI at once. If not, only the thread that initialised it may.
  [[nodiscard]] virtual bool thread_multiple() const = 0;

  // As "Open MPI v5.0.11".
  [[nodiscard]] virtual std::string version() const = 0;

  // Whether the library says that messages may lie in memory of CUDA devices. Not all that can say
  // so.
  [[nodiscard]] virtual bool takes_device_memory() const = 0;

  // Everybody's string, by rank of MPI_COMM_WORLD. Collective over it, and ordered with whatever
  // other collectives the program runs there. Throws TimeoutError when a rank stays away.
  [[nodiscard]] virtual std::vector<std::string> all_gather_strings(const std::string& mine,
                                                                    Deadline deadline) = 0;

  // Ends MPI if load() initialised it and nobody ended it since; otherwise does nothing. Collective
  // over MPI_COMM_WORLD. For a process that ends well. Nothing is done either when a group was torn
  // down with messages in flight: MPI would wait for them, perhaps for ever.
  virtual void finalize() = 0;
};

// Joins the members of a group, whose ranks in MPI_COMM_WORLD are `world_ranks` in the order of
// their ranks in the group; `rank` is this process's rank in the group. All members call it
// together, nobody else does; `mailbox` must outlive the transport. Its messages cannot meet those
// of other users of MPI. User tags go up to the library's MPI_TAG_UB less 8: send() throws
// UsageError beyond.
//
// MPI cannot take back what it began: it may read or write the memory of a cancelled transfer until
// that is done. One that failed, or is not done when the transport is gone, never will be: its
// memory must live for good. Destruction waits a moment (0.25 s) for the other members to leave
// too.
//
// Throws TransportError; TimeoutError if thread_multiple(), else it waits as long as MPI does.
[[nodiscard]] std::unique_ptr<Transport> make_mpi_transport(MpiLibrary& library, Mailbox& mailbox,
                                                            const std::vector<int>& world_ranks,
                                                            int rank, Deadline deadline);

}  // namespace quoit
