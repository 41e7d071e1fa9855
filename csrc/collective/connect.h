#pragma once
// How ranks become a group.
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "collective/communicator.h"
#include "transport/tcp.h"

namespace quoit {

// Gives this rank's string and returns everybody's, by rank. May be called several times; blocks,
// and has its own deadline. Made from a c10d Store, from MPI, from a file.
using Rendezvous = std::function<std::vector<std::string>(const std::string&)>;

struct ConnectOptions {
  Seconds timeout{1800};    // of every operation, and of connecting
  std::string mpi_library;  // path of the launcher's libmpi; empty when not under mpirun
  int mpi_size = 0;         // how many ranks that launcher started
  std::string mpi_cuda =
      "auto";  // whether it takes memory of CUDA devices: "on", "off", as it says

  // Fills in what the environment says: QUOIT_TRANSPORT, QUOIT_ALGORITHM, QUOIT_TIMEOUT_S,
  // QUOIT_MPI_CUDA, QUOIT_IFACE, QUOIT_PORTS, QUOIT_STREAMS, QUOIT_TUNING, QUOIT_SINGLE_COPY.
  // Arguments win over the environment.
  //
  // transport: "shm" refuses several hosts; "mpi" or "tcp" uses that for every pair of ranks,
  // "shm+mpi" or "shm+tcp" between hosts only; "auto" is shm inside a host, and between hosts MPI
  // under an mpirun and TCP elsewhere.
  std::string transport = "auto";
  std::string algorithm = "auto";
  std::optional<Costs> costs;  // of the links; the file that QUOIT_TUNING names, or measured
  SingleCopy single_copy = SingleCopy::Auto;
  TcpOptions tcp;
  static ConnectOptions from_environment();
};

// Collective over the ranks of the new group. Throws UnavailableError, naming both hosts, when two
// ranks have no transport between them.
std::unique_ptr<Communicator> connect(Engine& engine, int rank, int size, const Rendezvous& meet,
                                      const ConnectOptions& options);

// Ranks that are threads of this process, for tests: rank r lives on host hosts[r], inside a host
// they share memory, between hosts they use the loopback transport, or TCP when
// options.transport is "shm+tcp". Each rank has an engine of its own.
struct ThreadRank {
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Communicator> communicator;
};
std::vector<ThreadRank> connect_threads(const std::vector<std::string>& hosts,
                                        const ConnectOptions& options);

}  // namespace quoit
