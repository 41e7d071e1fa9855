#pragma once
#include <string>

namespace quoit {

// Something a coroutine may wait for. The engine asks again and again, from whichever thread is
// driving, always under the engine's lock.
class Pollable {
 public:
  // True once waiting is over, in success or in failure. Cheap, never blocks, never throws.
  virtual bool ready() = 0;

  // Whether it still waits for something from `rank` of the group.
  [[nodiscard]] virtual bool awaits(int rank) const = 0;

  // Whom it waits for, for the message when time runs out: "rank 3".
  [[nodiscard]] virtual std::string awaited() const = 0;

 protected:
  ~Pollable() = default;
};

}  // namespace quoit
