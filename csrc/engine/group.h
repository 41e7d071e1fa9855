#pragma once
// What the engine knows of a group of ranks: how to move its bytes, and what is in flight.
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "engine/task.h"
#include "engine/work.h"

namespace quoit {

// One operation in flight.
struct Job {
  Job(Flow flow, std::shared_ptr<Work> work) : flow(std::move(flow)), work(std::move(work)) {}
  Flow flow;
  std::shared_ptr<Work> work;
};

class Group {
 public:
  virtual ~Group() = default;

  // Moves bytes; never waits. True when something moved.
  virtual bool progress() = 0;

  // Wakes the ranks that sleep and may wait for what this one has published.
  virtual void ring_peers() = 0;

  // Why the group cannot go on, or nothing. `thorough` also looks for dead peers (system calls).
  virtual std::optional<std::string> failure(bool thorough) = 0;

  [[nodiscard]] virtual int size() const = 0;

  // Why nothing more will come from `peer`, which left in good order; or nothing.
  virtual std::optional<std::string> departed(int peer) = 0;

  // Tells the other ranks that this one gave up, and why.
  virtual void announce_fault(const std::string& why) = 0;

  // Whether nothing touches the memory of a transfer any more once it was cancelled.
  [[nodiscard]] virtual bool cancels() const = 0;

  // Whether every arrival wakes a sleeping process, so that sleeps may be long.
  [[nodiscard]] virtual bool rings_bell() const = 0;

  // The process is about to sleep: the next arrival shall ring its bell.
  virtual void arm_bell() = 0;

  // Whether ranks outnumber cores, so that waiting must not spin.
  [[nodiscard]] virtual bool oversubscribed() const = 0;

  // "rank 3 on node7", for messages.
  [[nodiscard]] virtual std::string where() const = 0;

 private:
  friend class Attempt;
  friend class Engine;
  std::list<Job> ordered_;  // collectives, in the order of the calls: the first one runs
  std::list<Job> free_;     // point-to-point: all run
  std::list<Job> failed_;   // kept: a library that cannot cancel may still touch their memory
  std::string broken_;      // the first failure; every later call repeats it

  [[nodiscard]] bool busy() const { return !ordered_.empty() || !free_.empty(); }
};

}  // namespace quoit
