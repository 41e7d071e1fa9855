#pragma once
// How ranks become a group.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "collective/communicator.h"

namespace quoit {

// Gives this rank's string and returns everybody's, by rank. May be called several times; blocks,
// and has its own deadline. Made from a c10d Store, from MPI, from a file.
using Rendezvous = std::function<std::vector<std::string>(const std::string&)>;

struct ConnectOptions {
  Seconds timeout{1800};    // of every operation, and of connecting
  std::string mpi_library;  // path of the launcher's libmpi; empty when not under mpirun
  int mpi_size = 0;         // how many ranks that launcher started

  // Fills in what the environment says: QUOIT_TRANSPORT (auto, shm, mpi), QUOIT_ALGORITHM,
  // QUOIT_TIMEOUT_S. Arguments win over the environment.
  std::string transport = "auto";
  std::string algorithm = "auto";
  static ConnectOptions from_environment();
};

// Collective over the ranks of the new group. Throws UnavailableError, naming both hosts, when two
// ranks have no transport between them.
std::unique_ptr<Communicator> connect(Engine& engine, int rank, int size, const Rendezvous& meet,
                                      const ConnectOptions& options);

// Ranks that are threads of this process, for tests: rank r lives on host hosts[r], inside a host
// they share memory, between hosts they use the loopback transport. Each rank has an engine of its
// own.
struct ThreadRank {
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Communicator> communicator;
};
std::vector<ThreadRank> connect_threads(const std::vector<std::string>& hosts,
                                        const ConnectOptions& options);

}  // namespace quoit
