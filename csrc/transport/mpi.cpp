#include "transport/mpi.h"

#include <algorithm>
#include <future>
#include <thread>
#include <utility>

#include "transport/mpi_transport.h"

namespace quoit {
namespace {

// Sets this communicator's creation apart from others that a program makes of the same ranks.
constexpr int kCreationTag = 0x516f;

// Collective over the members, and blocking: MPI has no other way to make a communicator of some
// ranks only.
template <class Abi>
typename Abi::Comm create(const LoadedMpi<Abi>& mpi, const std::vector<int>& world_ranks) {
  const MpiCalls<Abi>& calls = mpi.calls();
  const typename LoadedMpi<Abi>::ErrorsReturn guard(mpi);
  typename Abi::Group world{};
  typename Abi::Group group{};
  typename Abi::Comm comm{};
  mpi.must(calls.comm_group, calls.comm_world, &world);
  mpi.must(calls.group_incl, world, static_cast<int>(world_ranks.size()), world_ranks.data(),
           &group);
  mpi.must(calls.comm_create_group, calls.comm_world, group, kCreationTag, &comm);
  mpi.must(calls.comm_set_errhandler, comm, calls.errors_return);
  mpi.must(calls.group_free, &group);
  mpi.must(calls.group_free, &world);
  return comm;
}

// As create(), with a deadline where MPI allows another thread to wait in our stead.
template <class Abi>
typename Abi::Comm create_until(LoadedMpi<Abi>& mpi, const std::vector<int>& world_ranks,
                                Deadline deadline) {
  if (!mpi.thread_multiple()) return create(mpi, world_ranks);
  std::packaged_task<typename Abi::Comm()> task(
      [&mpi, world_ranks] { return create(mpi, world_ranks); });
  auto comm = task.get_future();
  std::thread waiter(std::move(task));
  // A wait without a deadline is cut into years, which the clock can count.
  constexpr Seconds kLongest{365.0 * 24 * 3600};
  if (comm.wait_for(std::min(deadline.left(), kLongest)) == std::future_status::ready) {
    waiter.join();
    return comm.get();
  }
  waiter.detach();
  mpi.abandon();
  throw TimeoutError(
      text("rank ", mpi.world_rank(), " of MPI_COMM_WORLD waited in vain for the other ",
           world_ranks.size() - 1, " members of a group: all members must create it, ",
           "in the same order as their other groups"));
}

void check_members(const MpiLibrary& library, const std::vector<int>& world_ranks, int rank) {
  const int size = static_cast<int>(world_ranks.size());
  QUOIT_CHECK(rank >= 0 && rank < size, UsageError, "rank ", rank, " of an MPI group of ", size);
  QUOIT_CHECK(world_ranks[static_cast<std::size_t>(rank)] == library.world_rank(), UsageError,
              "rank ", rank, " of the group is rank ", world_ranks[static_cast<std::size_t>(rank)],
              " of MPI_COMM_WORLD, but this process is rank ", library.world_rank(), " there");
  std::vector<int> sorted = world_ranks;
  std::ranges::sort(sorted);
  const bool distinct = std::ranges::adjacent_find(sorted) == sorted.end();
  QUOIT_CHECK(distinct && sorted.front() >= 0 && sorted.back() < library.world_size(), UsageError,
              "the members of an MPI group must be distinct ranks from 0 to ",
              library.world_size() - 1);
}

template <class Abi>
std::unique_ptr<Transport> join(LoadedMpi<Abi>& mpi, Mailbox& mailbox,
                                const std::vector<int>& world_ranks, int rank, Deadline deadline) {
  QUOIT_CHECK(mpi.alive(), UnavailableError, mpi.version(), " was finalised, or this process was ",
              "forked from the rank: MPI can make no group any more");
  const auto comm = create_until(mpi, world_ranks, deadline);
  return std::make_unique<MpiTransport<Abi>>(mpi, mailbox, comm, rank,
                                             static_cast<int>(world_ranks.size()));
}

}  // namespace

std::unique_ptr<Transport> make_mpi_transport(MpiLibrary& library, Mailbox& mailbox,
                                              const std::vector<int>& world_ranks, int rank,
                                              Deadline deadline) {
  check_members(library, world_ranks, rank);
  if (auto* mpich = dynamic_cast<LoadedMpi<MpichAbi>*>(&library))
    return join(*mpich, mailbox, world_ranks, rank, deadline);
  if (auto* open_mpi = dynamic_cast<LoadedMpi<OpenMpiAbi>*>(&library))
    return join(*open_mpi, mailbox, world_ranks, rank, deadline);
  return join(dynamic_cast<LoadedMpi<StandardAbi>&>(library), mailbox, world_ranks, rank, deadline);
}

}  // namespace quoit
