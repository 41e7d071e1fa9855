#pragma once
// A group of ranks and what they can do together. Every method starts an operation and returns a
// handle; the operations of a group run in the order of the calls, the same on all ranks, except
// send and recv, which run side by side with everything.
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "collective/compressed.h"
#include "collective/cost.h"
#include "collective/device_group.h"
#include "collective/device_network.h"
#include "collective/hierarchy.h"
#include "collective/messages.h"
#include "collective/staging.h"
#include "engine/attempt.h"
#include "transport/host_segment.h"

namespace quoit {

// The stream of monitored barriers; user tags are 0 or more, those below are in transport.h.
inline constexpr Tag kMonitorTag = -3;

// What ranks found out about each other when the group was made.
struct Membership {
  int rank = 0;
  std::vector<std::string> host_names;      // by rank, as people know them
  std::vector<int> host_of;                 // by rank: equal numbers share memory
  std::vector<std::shared_ptr<void>> keep;  // memory that the rest points into; freed last
  std::unique_ptr<HostSegment> segment;     // of the ranks on this host
  std::unique_ptr<Network> network;
  Seconds timeout{1800};
  Algorithm algorithm = Algorithm::Auto;  // Auto picks by size and place; others are for tests
  std::optional<Costs> costs;             // of the links; measured when they are first needed
  DeviceReach reach = DeviceReach::None;  // of the network
  bool oversubscribed = false;            // see placement.h
};

// How to make one call. In Mode::Now it returns null when it is over and went well; otherwise the
// handle must be waited for at once, and given what `keep` would have held (Work::hold).
struct CallOptions {
  Seconds timeout{0};  // 0: the group's
  Engine::Mode mode = Engine::Mode::Foreground;
  std::shared_ptr<void> keep;      // lives as long as the operation may touch memory
  std::function<void()> epilogue;  // see Work
  // Of a call whose views point into an accelerator's memory. All ranks must have one, or none.
  std::shared_ptr<Staging> staging;
  // Beside it, where the memory may be CUDA's: for what the ranks can do without the host's.
  std::shared_ptr<DeviceOrder> device;
  // Beside that, of a compressed collective, which then may do without the host, too, so what its
  // parts keep lies where device_obstacle() says: memory for it. Used before the call returns. A
  // fingerprint is then left to the caller, and compare().
  DeviceRoom room;
};

class Communicator final : public Group {
 public:
  using Handle = std::shared_ptr<Work>;

  Communicator(Engine& engine, Membership membership);
  ~Communicator() override;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  [[nodiscard]] int rank() const { return us_.rank; }
  [[nodiscard]] int size() const override { return static_cast<int>(us_.host_of.size()); }
  [[nodiscard]] Engine& engine() { return engine_; }
  [[nodiscard]] Seconds timeout() const { return us_.timeout; }
  void set_timeout(Seconds timeout) { us_.timeout = timeout; }
  [[nodiscard]] std::uint64_t sequence() const { return sequence_.load(); }

  // "shm", "mpi" ...: what reaches `peer`.
  [[nodiscard]] std::string_view route(int peer) const { return us_.network->route(peer); }

  // How collectives go on memory of devices, where the runtime itself sees to them: "ipc" (CUDA
  // IPC), "mpi" (given to MPI, but for sums where a rank lacks the kernels) or "host"; "" before
  // the first one.
  [[nodiscard]] std::string_view device_route() {
    return over_.reach() == DeviceReach::None ? devices_.route() : over_.route();
  }

  // Why compressed collectives on memory of this device go by way of the host, where what their
  // parts keep must then be; empty: they go without it. Collective when it is first asked, unless a
  // collective has gone before on such memory; then the same on all ranks.
  std::string device_obstacle(const DeviceOrder& order);

  // `in` and `out` may be the same memory everywhere. Throws UsageError at once for what this rank
  // alone can see to be wrong; what only the ranks together can see fails the handle, on all of
  // them.
  Handle all_reduce(View in, View out, Reduction reduction, CallOptions options = {});
  Handle reduce(View in, View out, Reduction reduction, int root, CallOptions options = {});
  Handle broadcast(View data, int root, CallOptions options = {});

  // One view per rank, in rank order; sizes may differ as long as both sides agree.
  Handle reduce_scatter(std::vector<View> in, View out, Reduction reduction,
                        CallOptions options = {});
  Handle all_gather(View in, std::vector<View> outs, CallOptions options = {});

  // The same for sizes that an earlier call finds out: `prepare` says what to gather when the turn
  // of the call has come, under the engine's lock. What it throws fails the call.
  struct Gathering {
    View in;
    std::vector<View> outs;
  };
  Handle all_gather_later(DType dtype, std::function<Gathering()> prepare,
                          CallOptions options = {});

  // `uneven` must be the same on all ranks: whether block sizes may differ anywhere.
  Handle all_to_all(std::vector<View> ins, std::vector<View> outs, bool uneven,
                    CallOptions options = {});

  // outs / ins are empty on ranks other than `root`. Sizes are equal.
  Handle gather(View in, std::vector<View> outs, int root, CallOptions options = {});
  Handle scatter(std::vector<View> ins, View out, int root, CallOptions options = {});

  Handle barrier(CallOptions options = {});

  // Sums or averages `data` (float32, bfloat16, float16) in place, encoded on the way as `how`
  // says; its residuals must live as long as the call. All ranks end with the same bits.
  Handle compressed_all_reduce(View data, std::shared_ptr<const Compression> how,
                               CompressionTerms terms, Reduction reduction,
                               CallOptions options = {});

  // The same for blocks, one for each rank, in rank order; block r is summed into `out` of rank r.
  // `data` holds the blocks one after another, and is used up. The parts of `how` are the blocks.
  Handle compressed_reduce_scatter(View data, View out, std::shared_ptr<const Compression> how,
                                   CompressionTerms terms, Reduction reduction,
                                   CallOptions options = {});

  // Block r of `data` is rank r's, and comes to all others encoded; rank r itself ends with what
  // they decode.
  Handle compressed_all_gather(View data, std::shared_ptr<const Compression> how,
                               CompressionTerms terms, CallOptions options = {});

  // Compares what ranks hold after a compressed collective, of which it is a part: it has no number
  // of its own.
  Handle compare(const ReplicaClaim& claim, CallOptions options = {});

  // Measures what the links of the group cost, `passes` times over, and goes by that from now on.
  // Collective; costs() is the result once the handle is done.
  Handle measure(int passes, CallOptions options = {});
  [[nodiscard]] const Costs& costs() const { return costs_; }
  [[nodiscard]] const Shape& shape() const { return shape_; }

  // Messages match by (sender, tag), in order; tag >= 0, or kMonitorTag. `from` may be kAnySource;
  // see Work::source.
  Handle send(View data, int to, Tag tag, CallOptions options = {});
  Handle recv(View into, int from, Tag tag, CallOptions options = {});

  // Fails everything pending and all later calls, here and on the other ranks.
  void abort(const std::string& why) { engine_.abort(*this, why); }

  // Lets collectives in flight complete for a moment, fails what is left, and tells the other ranks
  // that this one left. The object may live on, held by works that are done.
  void shut_down();

  // For the engine.
  bool progress() override {
    if (over_.in_use()) return over_.progress();
    return devices_.progress() | us_.network->progress();
  }
  void ring_peers() override { board().ring_peers(); }
  std::optional<std::string> failure(bool thorough) override;
  std::optional<std::string> departed(int peer) override;
  void announce_fault(const std::string& why) override;
  [[nodiscard]] bool cancels() const override { return us_.network->cancels(); }
  [[nodiscard]] bool rings_bell() const override {
    return us_.network->rings_bell() && *arrivals_ == 0;
  }
  void arm_bell() override { us_.network->arm_bell(); }
  [[nodiscard]] bool oversubscribed() const override { return us_.oversubscribed; }
  [[nodiscard]] std::string where() const override;

 private:
  [[nodiscard]] Call next_call(Op op, DType dtype, std::size_t count, int root = -1,
                               ReduceOp reduce = ReduceOp::Sum);
  [[nodiscard]] ReduceStep step_of(DType dtype, Reduction reduction) const;
  [[nodiscard]] Handle begin(const Call& call, CallOptions& options) const;
  Handle start(const Call& call, Task task, CallOptions& options,
               Engine::Order order = Engine::Order::InTurn);
  template <class Make>
  Handle run(Call call, CallOptions& options, std::size_t pieces, Make make,
             Engine::Order order = Engine::Order::InTurn);
  template <class Make>
  [[nodiscard]] static Task in_pieces(std::shared_ptr<Staging> staging, std::size_t pieces,
                                      std::shared_ptr<int> arrivals, Make make);
  [[nodiscard]] DeviceLane* lane_for(Call& call, CallOptions& options);
  [[nodiscard]] DeviceEdges* edges_for(CallOptions& options);
  [[nodiscard]] Hands hands_for(Call& call, CallOptions& options, DeviceReach needed) {
    return options.device ? hands_of_device(call, options, needed) : *us_.network;
  }
  [[nodiscard]] Hands hands_of_device(Call& call, CallOptions& options, DeviceReach needed);
  [[nodiscard]] DeviceHands* over_network(CallOptions& options, DeviceReach needed);
  [[nodiscard]] std::shared_ptr<Workspace> workspace_of(const Hands& hands) const {
    return hands.device() == nullptr ? workspace_ : hands.device()->workspace();
  }
  void settle(const Call& call, Task task, const CallOptions& options, Engine::Order order);
  Handle launch(const Call& call, CallOptions& options, DeviceLane& lane, Task task,
                bool on_host = false);
  [[nodiscard]] static Task in_order(std::shared_ptr<DeviceOrder> order, DeviceStream& stream,
                                     Task task, bool on_host, std::shared_ptr<int> arrivals);
  [[nodiscard]] Task greeting(Call call);
  [[nodiscard]] Task greeted(Call call, Task work, std::optional<Together> both = {});
  [[nodiscard]] Task concluded(Call call, Task first);
  [[nodiscard]] Task measured(Call call, int passes);
  template <class Make>
  [[nodiscard]] Task routed(Hands hands, Call call, std::size_t bytes, Make make);
  [[nodiscard]] Task settle_costs(Call call, int passes);
  [[nodiscard]] Algorithm way_for(const Call& call, std::size_t bytes, const Shape& shape);
  void log_choice(const Call& call, std::size_t bytes, const Shape& shape, const Choice& choice);
  [[nodiscard]] Task reduce_all(Hands hands, const Call& call, View in, View out, ReduceStep step);
  [[nodiscard]] Task reduce_to(int root, Hands hands, const Call& call, View in, View out,
                               ReduceStep step);
  [[nodiscard]] Task broadcast_from(int root, Hands hands, const Call& call, View data);
  [[nodiscard]] Task reduce_blocks(Hands hands, const Call& call, std::vector<View> in, View out,
                                   ReduceStep step);
  [[nodiscard]] Task gather_all(Hands hands, const Call& call, View in, std::vector<View> outs);
  [[nodiscard]] Task gather_later(Call call, std::function<Gathering()> prepare);
  [[nodiscard]] Task reduce_compressed(Call call, View data, std::vector<Tile> tiles, Compressor by,
                                       std::optional<std::uint64_t> fingerprint);
  [[nodiscard]] Task scatter_compressed(Call call, View mine, View out, std::vector<Tile> tiles,
                                        Compressor by);
  [[nodiscard]] Task gather_compressed(Call call, std::vector<Tile> tiles, Compressor by);
  [[nodiscard]] Task compared(Call call, ReplicaClaim claim);
  [[nodiscard]] Compressor compressor(std::shared_ptr<const Compression> how,
                                      const CompressionTerms& terms, std::size_t plain_bytes) const;
  [[nodiscard]] Board& board() { return us_.segment->board(); }
  void check_rank(int rank, const char* what) const;
  static void check_tag(Tag tag, const char* what);
  void check_views(const std::vector<View>& views, DType dtype, const char* what) const;

  Engine& engine_;
  Membership us_;
  Shape shape_;
  bool direct_;  // the board reaches everybody, and is to be used
  Ring ring_;    // all ranks, hosts one after another
  Lanes lanes_;
  Costs costs_;
  bool costs_settled_;
  std::set<std::string> told_;  // choices that were logged
  std::shared_ptr<Workspace> workspace_ = std::make_shared<Workspace>();
  // Calls that wait for an accelerator now. Guarded by the engine's lock.
  std::shared_ptr<int> arrivals_ = std::make_shared<int>(0);
  DeviceGroup devices_;
  DeviceNetwork over_;
  std::atomic<std::uint32_t> sequence_{0};
};

// Begins to bring what `touched()` lists to the host, in as many pieces as it returns: 0 where it
// is there already. `bytes`, which that depends on, are the same on all ranks; 0 where the call
// must not be cut.
template <class Touch>
std::size_t begin_staging(const CallOptions& options, std::size_t bytes, Touch touched) {
  if (!options.staging) return 0;
  const std::size_t pieces = std::max<std::size_t>(1, ceil_div(bytes, kStagedBytes));
  options.staging->begin(pieces, touched());
  return pieces;
}

// Starts make(call, piece), a task that works on piece(view) for each view: once, or for one piece
// after another. On memory of a device that is not staged, the task works with its hands.
template <class Make>
Communicator::Handle Communicator::run(Call call, CallOptions& options, std::size_t pieces,
                                       Make make, Engine::Order order) {
  if (pieces == 0 && options.device)
    return start(call, over_.collective(options.device, make(call, Piece()), arrivals_), options,
                 order);
  if (pieces == 0) return start(call, make(call, Piece()), options, order);
  call.staged = 1;
  return start(call,
               in_pieces(options.staging, pieces, arrivals_,
                         [=](const Piece& piece) mutable { return make(call, piece); }),
               options, order);
}

template <class Make>
Task Communicator::in_pieces(std::shared_ptr<Staging> staging, std::size_t pieces,
                             std::shared_ptr<int> arrivals, Make make) {
  for (std::size_t i = 0; i < pieces; ++i) {
    {
      Brought brought(*staging, i, arrivals);
      co_await brought;
    }
    co_await make(Piece(*staging, i));
    staging->carry_back(i);
  }
  Brought back(*staging, pieces, arrivals);
  co_await back;
}

}  // namespace quoit
