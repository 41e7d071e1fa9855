// How a communicator finds the cheapest way for a collective.
#include <algorithm>
#include <bit>

#include "collective/calibrate.h"
#include "collective/communicator.h"
#include "core/log.h"

namespace quoit {

Task Communicator::settle_costs(Call call, int passes) {
  co_await calibrate(*us_.network, ring_, board(), call, passes, workspace_, costs_);
  costs_settled_ = true;
  if (log::debug())
    log::write(text("[quoit ", where(), "] links measured: host ", costs_.host.alpha * 1e6,
                    " us + ", costs_.host.beta * 1e9, " ns/B, network ", costs_.net.alpha * 1e6,
                    " us + ", costs_.net.beta * 1e9, " ns/B, addition ", costs_.gamma * 1e9,
                    " ns/B"));
}

// All ranks come to the same: they agree on the call, and have the same costs.
Algorithm Communicator::way_for(const Call& call, std::size_t bytes, const Shape& shape) {
  const std::vector<Algorithm> ways = algorithms_for(call.op, shape);
  if (std::find(ways.begin(), ways.end(), us_.algorithm) != ways.end()) return us_.algorithm;
  // A way that was asked for and that this collective lacks means messages, of whatever kind.
  Shape apart = shape;
  if (apart.hosts == 1) apart = {apart.ranks, apart.ranks, 1};
  const Choice choice = choose(call.op, static_cast<double>(bytes), apart, costs_);
  if (log::debug()) log_choice(call, bytes, shape, choice);
  return choice.algorithm;
}

// Once for each kind of call and power of two of bytes.
void Communicator::log_choice(const Call& call, std::size_t bytes, const Shape& shape,
                              const Choice& choice) {
  if (!told_.insert(text(name_of(call.op), std::bit_width(bytes))).second) return;
  std::string others;
  for (const Algorithm way : algorithms_for(call.op, shape))
    if (way != choice.algorithm)
      others += text(others.empty() ? "" : ", ", name_of(way), " ",
                     predict(call.op, way, static_cast<double>(bytes), shape, costs_) * 1e6);
  log::write(text("[quoit ", where(), "] ", describe(call), ", ", bytes,
                  " bytes: ", name_of(choice.algorithm), ", ",
                  std::max(choice.seconds, quoit::greeting(shape, costs_)) * 1e6,
                  " us expected; us of the others: ", others.empty() ? "none" : others));
}

}  // namespace quoit
