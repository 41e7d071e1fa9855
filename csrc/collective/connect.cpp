#include "collective/connect.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "core/env.h"
#include "core/host.h"
#include "transport/loopback.h"
#include "transport/mpi.h"

namespace quoit {
namespace {

// What a rank tells the others first. One word per field: they travel as text.
struct Card {
  std::string host_identity;
  std::string host_name;
  std::string bell;

  [[nodiscard]] std::string written() const {
    return host_identity + "\n" + host_name + "\n" + bell;
  }
  static Card read(const std::string& said, std::size_t rank) {
    std::istringstream lines(said);
    Card card;
    const bool whole = std::getline(lines, card.host_identity) &&
                       std::getline(lines, card.host_name) && std::getline(lines, card.bell);
    QUOIT_CHECK(whole, TransportError, "rank ", rank, " sent '", said,
                "' when meeting the others: do all ranks run the same version of quoit?");
    return card;
  }
};

// The ranks that share a host with rank `me`, and where `me` stands among them.
HostSegment::Members members_of(const std::vector<int>& host_of, int me) {
  HostSegment::Members members;
  for (std::size_t rank = 0; rank < host_of.size(); ++rank) {
    if (host_of[rank] != host_of[static_cast<std::size_t>(me)]) continue;
    if (static_cast<int>(rank) == me) members.mine = static_cast<int>(members.ranks.size());
    members.ranks.push_back(static_cast<int>(rank));
  }
  return members;
}

std::vector<int> number_hosts(const std::vector<std::string>& identities) {
  std::map<std::string, int> numbers;
  std::vector<int> host_of;
  for (const std::string& identity : identities)
    host_of.push_back(
        numbers.try_emplace(identity, static_cast<int>(numbers.size())).first->second);
  return host_of;
}

std::vector<int> all_ranks(std::size_t size) {
  std::vector<int> ranks(size);
  for (std::size_t rank = 0; rank < size; ++rank) ranks[rank] = static_cast<int>(rank);
  return ranks;
}

void add_pipes(Membership& us, const std::vector<int>& local) {
  if (local.size() < 2) return;
  us.network->add(
      std::make_unique<ShmTransport>(us.segment->pipes(), us.rank, us.network->mailbox()), local);
}

}  // namespace

ConnectOptions ConnectOptions::from_environment() {
  ConnectOptions options;
  options.transport = env::read("QUOIT_TRANSPORT").value_or("auto");
  options.algorithm = env::read("QUOIT_ALGORITHM").value_or("auto");
  if (const auto seconds = env::read_number("QUOIT_TIMEOUT_S")) options.timeout = Seconds(*seconds);
  return options;
}

std::unique_ptr<Communicator> connect(Engine& engine, int rank, int size, const Rendezvous& meet,
                                      const ConnectOptions& options) {
  QUOIT_CHECK(size > 0 && rank >= 0 && rank < size, UsageError, "a group of ", size,
              " ranks has no rank ", rank);
  const auto& choice = options.transport;
  QUOIT_CHECK(choice == "auto" || choice == "shm" || choice == "mpi", UsageError, "transport '",
              choice, "' is not known: choose auto, shm or mpi");
  const Deadline deadline = Deadline::after(options.timeout);
  Membership us;
  us.rank = rank;
  us.timeout = options.timeout;
  us.algorithm = algorithm_named(options.algorithm);
  us.network = std::make_unique<Network>(rank, size);

  // First: who is where. With transport "mpi" every rank counts as a host of its own.
  std::string identity = host_identity();
  if (choice == "mpi") identity += text("/", rank);
  std::vector<Card> cards;
  std::vector<std::string> identities;
  for (const std::string& said :
       meet(Card{identity, host_name(), engine.bell_memory()->name()}.written()))
    cards.push_back(Card::read(said, cards.size()));
  for (const Card& card : cards) {
    identities.push_back(card.host_identity);
    us.host_names.push_back(card.host_name);
  }
  us.host_of = number_hosts(identities);
  HostSegment::Members members = members_of(us.host_of, rank);
  const bool several_hosts = members.ranks.size() < cards.size();
  QUOIT_CHECK(!several_hosts || choice != "shm", UnavailableError,
              "QUOIT_TRANSPORT=shm, but the ranks are on several hosts (", us.host_names.front(),
              ", ", us.host_names.back(), "): use 'auto'");
  MpiLibrary* mpi = nullptr;
  if (several_hosts) {
    QUOIT_CHECK(!options.mpi_library.empty(), UnavailableError, "rank 0 on ", us.host_names.front(),
                " and rank ", size - 1, " on ", us.host_names.back(),
                " share no memory, and between hosts this version of quoit needs MPI: start the "
                "program with mpirun");
    mpi = &MpiLibrary::load(options.mpi_library, options.mpi_size);
    if (!mpi->thread_multiple()) engine.forbid_background();
  }

  // Second: the first rank of each host makes the memory they share; everybody says who it is in
  // MPI.
  for (const int member : members.ranks) {
    auto memory =
        member == rank ? nullptr : SharedMemory::open(cards[static_cast<std::size_t>(member)].bell);
    members.bells.push_back(memory ? reinterpret_cast<Bell*>(memory->data()) : &engine.bell());
    us.keep.push_back(std::move(memory));
  }
  const int first = members.ranks.front();
  std::shared_ptr<SharedMemory> memory;
  if (rank == first)
    memory = SharedMemory::create(HostSegment::bytes(static_cast<int>(members.ranks.size())),
                                  "quoit-group");
  std::ostringstream offer;
  offer << (mpi ? mpi->world_rank() : -1) << " " << (memory ? memory->name() : "");
  std::vector<std::string> segments;
  std::vector<int> world_ranks;
  for (const std::string& said : meet(offer.str())) {
    std::istringstream words(said);
    words >> world_ranks.emplace_back() >> std::ws;
    std::getline(words, segments.emplace_back());
  }
  if (!memory) memory = SharedMemory::open(segments[static_cast<std::size_t>(first)]);
  std::byte* const segment = memory->data();
  us.segment = std::make_unique<HostSegment>(std::move(memory), segment, members);
  us.segment->await_all(deadline);

  if (mpi)
    us.network->add(make_mpi_transport(*mpi, us.network->mailbox(), world_ranks, rank, deadline),
                    all_ranks(static_cast<std::size_t>(size)));
  add_pipes(us, members.ranks);
  return std::make_unique<Communicator>(engine, std::move(us));
}

std::vector<ThreadRank> connect_threads(const std::vector<std::string>& hosts,
                                        const ConnectOptions& options) {
  std::vector<ThreadRank> world(hosts.size());
  std::vector<Bell*> bells;
  for (ThreadRank& rank : world) {
    rank.engine = std::make_unique<Engine>();
    bells.push_back(&rank.engine->bell());
  }
  const auto wire = std::make_shared<LoopbackWire>(bells);
  const std::vector<int> host_of = number_hosts(hosts);
  std::map<int, std::shared_ptr<SharedMemory>> memory_of;
  for (std::size_t r = 0; r < hosts.size(); ++r) {
    Membership us;
    us.rank = static_cast<int>(r);
    us.host_names = hosts;
    us.host_of = host_of;
    us.timeout = options.timeout;
    us.algorithm = algorithm_named(options.algorithm);
    for (const ThreadRank& rank : world) us.keep.push_back(rank.engine->bell_memory());
    us.network = std::make_unique<Network>(us.rank, static_cast<int>(hosts.size()));
    us.network->add(std::make_unique<LoopbackTransport>(wire, us.rank, us.network->mailbox()),
                    all_ranks(hosts.size()));
    HostSegment::Members members = members_of(host_of, us.rank);
    for (const int member : members.ranks)
      members.bells.push_back(bells[static_cast<std::size_t>(member)]);
    auto& memory = memory_of[host_of[r]];
    if (!memory)
      memory = SharedMemory::create(HostSegment::bytes(static_cast<int>(members.ranks.size())),
                                    "quoit-threads");
    us.segment = std::make_unique<HostSegment>(memory, memory->data(), members);
    add_pipes(us, members.ranks);
    world[r].communicator = std::make_unique<Communicator>(*world[r].engine, std::move(us));
  }
  return world;
}

}  // namespace quoit
