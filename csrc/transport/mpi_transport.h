#pragma once
// Messages over the MPI library that is loaded.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "transport/mpi_library.h"

namespace quoit {

// Uses non-blocking calls only, on a communicator of its own: `comm` of the members of the group,
// whose errors are returned. It is freed when all members have left.
template <class Abi>
class MpiTransport final : public Transport {
 public:
  using Comm = typename Abi::Comm;
  using Request = typename Abi::Request;
  using Message = typename Abi::Message;
  using Status = typename Abi::Status;

  MpiTransport(LoadedMpi<Abi>& mpi, Mailbox& mailbox, Comm comm, int rank, int size)
      : mpi_(mpi), calls_(mpi.calls()), mailbox_(mailbox), comm_(comm), rank_(rank), size_(size) {}
  ~MpiTransport() override;

  [[nodiscard]] std::string_view name() const override { return "mpi"; }
  [[nodiscard]] Transfer send(int to, Tag tag, ConstBytes data) override;
  bool progress() override;
  std::optional<std::string> failure() override { return failure_; }
  [[nodiscard]] bool cancels() const override { return false; }
  [[nodiscard]] bool takes_device_memory() const override { return true; }  // if it is told to
  [[nodiscard]] bool rings_bell() const override { return false; }

 private:
  // What a request is for: a send, an arrival, or neither (a farewell).
  struct Purpose {
    std::shared_ptr<Transfer::State> send;
    Arrival* arrival = nullptr;
  };

  // A message whose bytes are not asked for yet.
  struct Held {
    Message message;
    Arrival* arrival;
  };

  void check_running() const;
  template <class Begin>
  void start(Purpose purpose, Begin begin);
  bool finish_some();
  bool take_arrivals();
  bool take_held();
  void take(Message message, const Status& status);
  void receive(Message message, Arrival* arrival, std::size_t bytes);
  void settle(const Purpose& purpose);
  void fail(const std::string& why);
  void give_up(Arrival& arrival, const std::string& why);
  void keep_for_mpi(const Purpose& purpose);
  bool leave();

  LoadedMpi<Abi>& mpi_;
  const MpiCalls<Abi>& calls_;
  Mailbox& mailbox_;
  Comm comm_;
  int rank_;
  int size_;
  std::vector<Request> requests_;  // what is in flight
  std::vector<Purpose> purposes_;  // of requests_, one by one
  std::vector<Held> held_;         // in order of arrival
  std::vector<int> finished_;      // scratch of finish_some
  std::vector<Status> statuses_;   // scratch of finish_some
  bool leaving_ = false;           // nothing is held any more
  int farewells_ = 0;              // heard from other members
  std::optional<std::string> failure_;
};

}  // namespace quoit
