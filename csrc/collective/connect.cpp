#include "collective/connect.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "collective/placement.h"
#include "core/env.h"
#include "core/host.h"
#include "core/log.h"
#include "transport/loopback.h"
#include "transport/mpi.h"

namespace quoit {
namespace {

// What a rank tells the others first. One word per field: they travel as text.
struct Card {
  std::string host_identity;
  std::string host_name;
  std::string bell;
  std::string place;  // rank and size
  Seat seat;

  [[nodiscard]] std::string written() const {
    return text(host_identity, "\n", host_name, "\n", bell, "\n", place, "\n", seat.machine, "\n",
                quoit::written(seat.cpus));
  }
  static Card read(const std::string& said, std::size_t rank) {
    std::istringstream lines(said);
    Card card;
    std::string cpus;
    const bool whole = std::getline(lines, card.host_identity) &&
                       std::getline(lines, card.host_name) && std::getline(lines, card.bell) &&
                       std::getline(lines, card.place) && std::getline(lines, card.seat.machine) &&
                       std::getline(lines, cpus);
    QUOIT_CHECK(whole, TransportError, "rank ", rank, " sent '", said,
                "' when meeting the others: do all ranks run the same version of quoit?");
    card.seat.cpus = read_cpus(cpus);
    return card;
  }
};

std::string place_of(std::size_t rank, std::size_t size) { return text(rank, " of ", size); }

// Everybody's card; throws when they are not those of one group.
std::vector<Card> exchange_cards(const Card& mine, int rank, int size, const Rendezvous& meet) {
  std::vector<Card> cards;
  for (const std::string& said : meet(mine.written()))
    cards.push_back(Card::read(said, cards.size()));
  const auto ranks = static_cast<std::size_t>(size);
  QUOIT_CHECK(cards.size() == ranks, UsageError, "rank ", rank, " of ", size, " heard from ",
              cards.size(),
              " ranks when meeting the others: the rendezvous must give one text for each rank of "
              "the group, and all ranks must be given the same size");
  for (std::size_t r = 0; r < ranks; ++r)
    QUOIT_CHECK(cards[r].place == place_of(r, ranks), UsageError, "rank ", rank, " of ", size,
                " met a process on ", cards[r].host_name, " that is rank ", cards[r].place,
                " where rank ", place_of(r, ranks),
                " should be: give every process its own rank and all the same size, and let the "
                "rendezvous return texts in the order of ranks");
  return cards;
}

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

// What goes between ranks: whether those of a host share memory, and what others use.
struct Means {
  bool share_memory = true;
  enum { Nothing, Mpi, Tcp } between = Nothing;
};

Means means_of(const ConnectOptions& options) {
  const std::string& choice = options.transport;
  if (choice == "auto") return {true, options.mpi_library.empty() ? Means::Tcp : Means::Mpi};
  if (choice == "shm") return {true, Means::Nothing};
  if (choice == "mpi" || choice == "shm+mpi") return {choice != "mpi", Means::Mpi};
  if (choice == "tcp" || choice == "shm+tcp") return {choice != "tcp", Means::Tcp};
  throw UsageError(text("transport '", choice,
                        "' is not known: choose auto, shm, mpi, tcp, shm+mpi or shm+tcp"));
}

// The second thing that ranks tell: where the memory of their host is, and how to reach them from
// others.
struct Offer {
  std::string segment;   // of the first rank of a host
  int mpi_rank = -1;     // in MPI_COMM_WORLD
  std::string endpoint;  // of TCP
  DeviceReach reach = DeviceReach::None;

  [[nodiscard]] std::string written() const {
    return text(segment, "\n", mpi_rank, "\n", endpoint, "\n", static_cast<int>(reach), "\n");
  }
  static Offer read(const std::string& said) {
    std::istringstream lines(said);
    Offer offer;
    std::string number;
    std::getline(lines, offer.segment);
    std::getline(lines, number);
    std::getline(lines, offer.endpoint);
    offer.mpi_rank = std::atoi(number.c_str());
    std::getline(lines, number);
    offer.reach = static_cast<DeviceReach>(std::atoi(number.c_str()));
    return offer;
  }
};

// What this rank can do with memory of devices over MPI. Asks the driver only if MPI takes it.
DeviceReach reach_over(const MpiLibrary& mpi, const std::string& choice) {
  const bool takes = choice == "auto" ? mpi.takes_device_memory() : choice == "on";
  if (!takes) return DeviceReach::None;
  return cuda::run_everywhere() ? DeviceReach::Adds : DeviceReach::Moves;
}

void check_mpi_cuda(const std::string& choice) {
  QUOIT_CHECK(choice == "on" || choice == "off" || choice == "auto", UsageError, "QUOIT_MPI_CUDA='",
              choice, "' is not known: choose on, off or auto");
}

// What all ranks can do.
DeviceReach common_reach(const std::vector<Offer>& offers, const std::string& where) {
  std::size_t least = 0;
  for (std::size_t rank = 0; rank < offers.size(); ++rank)
    if (offers[rank].reach < offers[least].reach) least = rank;
  const DeviceReach reach = offers[least].reach;
  if (!log::debug()) return reach;
  if (reach == DeviceReach::None)
    log::write(text("[quoit ", where, "] memory of CUDA devices goes by way of the host: rank ",
                    least, "'s MPI does not say that it takes it (QUOIT_MPI_CUDA)"));
  else
    log::write(text("[quoit ", where, "] memory of CUDA devices goes over MPI",
                    reach == DeviceReach::Adds ? std::string()
                                               : text(", but not for sums: rank ", least,
                                                      " has no kernels for its CUDA devices")));
  return reach;
}

void add_pipes(Membership& us, const std::vector<int>& local) {
  if (local.size() < 2) return;
  us.network->add(
      std::make_unique<ShmTransport>(us.segment->pipes(), us.rank, us.network->mailbox()), local);
}

SingleCopy single_copy_named(const std::string& name) {
  if (name == "auto") return SingleCopy::Auto;
  if (name == "always") return SingleCopy::Always;
  if (name == "never") return SingleCopy::Never;
  throw UsageError(text("QUOIT_SINGLE_COPY=", name, ": this is none of auto, always and never"));
}

}  // namespace

ConnectOptions ConnectOptions::from_environment() {
  ConnectOptions options;
  options.transport = env::read("QUOIT_TRANSPORT").value_or("auto");
  options.algorithm = env::read("QUOIT_ALGORITHM").value_or("auto");
  options.mpi_cuda = env::read("QUOIT_MPI_CUDA").value_or("auto");
  if (const auto seconds = env::read_number("QUOIT_TIMEOUT_S")) options.timeout = Seconds(*seconds);
  options.tcp.interfaces = env::read("QUOIT_IFACE").value_or("");
  options.tcp.ports = env::read("QUOIT_PORTS").value_or("");
  if (const auto streams = env::read_number("QUOIT_STREAMS"))
    options.tcp.streams = static_cast<int>(*streams);
  options.single_copy = single_copy_named(env::read("QUOIT_SINGLE_COPY").value_or("auto"));
  if (const auto path = env::read("QUOIT_TUNING")) options.costs = read_costs(*path);
  return options;
}

std::unique_ptr<Communicator> connect(Engine& engine, int rank, int size, const Rendezvous& meet,
                                      const ConnectOptions& options) {
  QUOIT_CHECK(size > 0 && rank >= 0 && rank < size, UsageError, "a group of ", size,
              " ranks has no rank ", rank);
  const Means means = means_of(options);
  check_mpi_cuda(options.mpi_cuda);
  const Deadline deadline = Deadline::after(options.timeout);
  Membership us;
  us.rank = rank;
  us.timeout = options.timeout;
  us.algorithm = algorithm_named(options.algorithm);
  us.costs = options.costs;
  us.network = std::make_unique<Network>(rank, size);

  // First: who is where. A rank that shall share no memory counts as a host of its own.
  std::string identity = host_identity();
  if (!means.share_memory) identity += text("/", rank);
  const Card mine{identity,
                  host_name(),
                  engine.bell_memory()->name(),
                  place_of(static_cast<std::size_t>(rank), static_cast<std::size_t>(size)),
                  {machine_identity(), usable_cpus()}};
  const std::vector<Card> cards = exchange_cards(mine, rank, size, meet);
  std::vector<std::string> identities;
  std::vector<Seat> seats;
  for (const Card& card : cards) {
    identities.push_back(card.host_identity);
    us.host_names.push_back(card.host_name);
    seats.push_back(card.seat);
  }
  us.oversubscribed = oversubscribed(seats, rank);
  us.host_of = number_hosts(identities);
  HostSegment::Members members = members_of(us.host_of, rank);
  members.single_copy = options.single_copy;
  const bool several_hosts = members.ranks.size() < cards.size();
  QUOIT_CHECK(!several_hosts || means.between != Means::Nothing, UnavailableError,
              "QUOIT_TRANSPORT=shm, but the ranks are on several hosts (", us.host_names.front(),
              ", ", us.host_names.back(), "): use 'auto'");
  MpiLibrary* mpi = nullptr;
  std::unique_ptr<TcpTransport> tcp;
  Offer offer;
  if (several_hosts && means.between == Means::Mpi) {
    QUOIT_CHECK(!options.mpi_library.empty(), UnavailableError,
                "QUOIT_TRANSPORT=", options.transport,
                ", but this program was not started by an mpirun that quoit "
                "knows: start it with mpirun, or use 'auto', which takes TCP");
    mpi = &MpiLibrary::load(options.mpi_library, options.mpi_size);
    if (!mpi->thread_multiple()) engine.forbid_background();
    offer.mpi_rank = mpi->world_rank();
    offer.reach = reach_over(*mpi, options.mpi_cuda);
  } else if (several_hosts) {
    tcp = std::make_unique<TcpTransport>(options.tcp, rank, engine.bell(), us.network->mailbox());
    offer.endpoint = tcp->endpoint().written();
  }

  // Second: the first rank of each host makes the memory they share.
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
  if (memory) offer.segment = memory->name();
  std::vector<Offer> offers;
  for (const std::string& said : meet(offer.written())) offers.push_back(Offer::read(said));
  if (!memory) memory = SharedMemory::open(offers[static_cast<std::size_t>(first)].segment);
  std::byte* const segment = memory->data();
  us.segment = std::make_unique<HostSegment>(std::move(memory), segment, members);
  us.segment->await_all(deadline);

  const std::vector<int> everybody = all_ranks(static_cast<std::size_t>(size));
  if (mpi) {
    std::vector<int> world_ranks;
    for (const Offer& one : offers) world_ranks.push_back(one.mpi_rank);
    us.reach = common_reach(offers, text("rank ", rank, " on ", mine.host_name));
    us.network->add(make_mpi_transport(*mpi, us.network->mailbox(), world_ranks, rank, deadline),
                    everybody);
  } else if (tcp) {
    std::vector<TcpEndpoint> endpoints;
    for (const Offer& one : offers) endpoints.push_back(TcpEndpoint::read(one.endpoint));
    tcp->meet(endpoints, us.host_names);
    us.network->add(std::move(tcp), everybody);
  }
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
  const bool tcp = means_of(options).between == Means::Tcp && options.transport != "auto";
  std::vector<std::unique_ptr<TcpTransport>> calls;
  std::vector<TcpEndpoint> endpoints;
  const std::vector<int> host_of = number_hosts(hosts);
  std::map<int, std::shared_ptr<SharedMemory>> memory_of;
  std::vector<std::unique_ptr<Network>> networks;
  const bool crowded =
      oversubscribed(std::vector<Seat>(hosts.size(), {machine_identity(), usable_cpus()}), 0);
  for (int r = 0; r < static_cast<int>(hosts.size()); ++r) {
    networks.push_back(std::make_unique<Network>(r, static_cast<int>(hosts.size())));
    if (!tcp) continue;
    calls.push_back(std::make_unique<TcpTransport>(
        options.tcp, r, *bells[static_cast<std::size_t>(r)], networks.back()->mailbox()));
    endpoints.push_back(calls.back()->endpoint());
  }
  for (std::size_t r = 0; r < hosts.size(); ++r) {
    Membership us;
    us.rank = static_cast<int>(r);
    us.host_names = hosts;
    us.host_of = host_of;
    us.timeout = options.timeout;
    us.algorithm = algorithm_named(options.algorithm);
    us.costs = options.costs;
    us.oversubscribed = crowded;
    for (const ThreadRank& rank : world) us.keep.push_back(rank.engine->bell_memory());
    us.network = std::move(networks[r]);
    if (tcp) {
      calls[r]->meet(endpoints, hosts);
      us.network->add(std::move(calls[r]), all_ranks(hosts.size()));
    } else {
      us.network->add(std::make_unique<LoopbackTransport>(wire, us.rank, us.network->mailbox()),
                      all_ranks(hosts.size()));
    }
    HostSegment::Members members = members_of(host_of, us.rank);
    members.single_copy = options.single_copy;
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
