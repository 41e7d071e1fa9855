#include "collective/cost.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

#include "collective/direct.h"
#include "collective/hierarchy.h"

namespace quoit {
namespace {

// A group whose ranks stand in a ring, host by host.
class Model {
 public:
  Model(const Shape& shape, const Costs& costs)
      : n_(shape.ranks),
        hosts_(shape.hosts),
        local_(shape.ranks_per_host),
        costs_(costs),
        edge_(hosts_ > 1 ? costs.net : costs.host) {}

  double seconds(Op op, Algorithm algorithm, double bytes) const {
    if (n_ == 1) return 0;
    switch (algorithm) {
      case Algorithm::Direct:
        return direct(op, bytes);
      case Algorithm::Ring:
        return ring(op, bytes);
      case Algorithm::Chain:
        return chain(bytes);
      case Algorithm::Doubling:
        return doubling(op, bytes);
      case Algorithm::Halving:
        return halving(op, bytes);
      case Algorithm::Tree:
        return tree(op, bytes);
      case Algorithm::Hierarchy:
        return hierarchy(bytes);
      case Algorithm::Pairwise:
        return pairwise(bytes);
      case Algorithm::Auto:
        break;
    }
    throw UsageError("predict: name an algorithm; 'auto' is the choice among them");
  }

 private:
  // Everybody sends `bytes` to the rank `distance` further on. Inside a host all do it at once;
  // what leaves a host goes through its one link.
  [[nodiscard]] double step(int distance, double bytes) const {
    if (hosts_ == 1 || distance < local_) return costs_.host.alpha + bytes * costs_.host.beta;
    return costs_.net.alpha + bytes * std::min(distance, local_) * costs_.net.beta;
  }
  [[nodiscard]] double add(double bytes) const { return bytes * costs_.gamma; }
  [[nodiscard]] double share() const { return static_cast<double>(n_ - 1) / n_; }

  // Additions are part of what a byte costs in shared memory.
  double direct(Op op, double bytes) const {
    const auto [alpha, beta] = costs_.host;
    switch (op) {
      case Op::AllReduce:
        return bytes <= double{kOneRound} ? alpha + (n_ - 1) * bytes * beta
                                          : 2 * alpha + 2 * share() * bytes * beta;
      case Op::Reduce:
        return 2 * alpha + 2 * share() * bytes * beta;
      case Op::Broadcast:
        return alpha + bytes * beta;
      case Op::Barrier:
        return alpha;
      default:
        return alpha + share() * bytes * beta;
    }
  }

  // One rank of each host talks to the next host.
  double ring(Op op, double bytes) const {
    const double pass = (n_ - 1) * edge_.alpha + share() * bytes * edge_.beta;
    switch (op) {
      case Op::AllReduce:
        return 2 * pass + add(share() * bytes);
      case Op::AllGather:
        return pass;
      case Op::ReduceScatter:
        return pass + add(share() * bytes);
      default:  // reduce: a pass, and the chunks go home, one after another
        return 2 * pass + add(share() * bytes);
    }
  }

  double chain(double bytes) const {
    const double segments = std::max(1.0, std::ceil(bytes / kChainSegment));
    const double segment = bytes / segments;
    const double steps = n_ - 2 + segments;
    // The hops inside hosts hide behind those between them, but for the first segment.
    return hosts_ == 1
               ? steps * step(1, segment)
               : (n_ - hosts_) * (costs_.host.alpha + segment * costs_.host.beta) +
                     (hosts_ - 2 + segments) * (costs_.net.alpha + segment * costs_.net.beta);
  }

  double doubling(Op op, double bytes) const {
    double seconds = 0;
    if (op == Op::AllGather) {  // Bruck
      const double block = bytes / n_;
      for (int distance = 1; distance < n_; distance *= 2)
        seconds += step(distance, block * std::min(distance, n_ - distance));
      return seconds;
    }
    for (int distance = 1; distance < power(); distance *= 2)
      seconds += step(distance, bytes) + add(bytes);
    return seconds + fold(bytes, bytes);
  }

  double halving(Op op, double bytes) const {
    double seconds = 0;
    double piece = bytes;
    for (int distance = 1; distance < power(); distance *= 2) {
      piece /= 2;
      seconds += (op == Op::AllReduce ? 2 : 1) * step(distance, piece) + add(piece);
    }
    return seconds + fold(bytes, op == Op::AllReduce ? bytes : bytes / n_);
  }

  // What ranks beyond a power of two give to a neighbour first, and get back at the end.
  double fold(double given, double back) const {
    return n_ == power() ? 0 : step(1, given) + add(given) + step(1, back);
  }

  double tree(Op op, double bytes) const {
    double seconds = 0;
    for (int distance = 1; distance < n_; distance *= 2)
      seconds += step(distance, bytes) + (op == Op::Reduce ? add(bytes) : 0);
    return seconds;
  }

  double hierarchy(double bytes) const {
    const double local = static_cast<double>(local_ - 1) / local_;
    const double inside = 2 * (costs_.host.alpha + local * bytes * costs_.host.beta);
    const double least = choose_across(bytes, {n_, hosts_, local_}, costs_).seconds;
    // A segment is inside while another is on the wire.
    const double alone = std::min(1.0, kHierarchySegment / bytes);
    return std::max(inside, least) + alone * std::min(inside, least);
  }

  double pairwise(double bytes) const {
    const double block = bytes / n_;
    const double apart = n_ - local_;  // ranks elsewhere
    return (n_ - 1) * edge_.alpha + (local_ - 1) * block * costs_.host.beta +
           apart * local_ * block * costs_.net.beta;
  }

  [[nodiscard]] int power() const {
    return static_cast<int>(std::bit_floor(static_cast<unsigned>(n_)));
  }

  int n_;
  int hosts_;
  int local_;
  const Costs& costs_;
  Link edge_;  // the slowest of the ring
};

}  // namespace

Costs read_costs(const std::string& path) {
  std::ifstream file(path);
  QUOIT_CHECK(file, UsageError, "QUOIT_TUNING=", path,
              " cannot be read: write it with 'quoit tune', or unset QUOIT_TUNING");
  Costs costs;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    line = line.substr(0, line.find('#'));
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::size_t equals = line.find('=');
    std::istringstream left(line.substr(0, equals));
    std::istringstream right(equals == std::string::npos ? "" : line.substr(equals + 1));
    std::string name;
    double value = 0;
    const bool whole =
        left >> name && right >> value && (left >> std::ws).eof() && (right >> std::ws).eof();
    double* const known = name == "host_alpha"  ? &costs.host.alpha
                          : name == "host_beta" ? &costs.host.beta
                          : name == "net_alpha" ? &costs.net.alpha
                          : name == "net_beta"  ? &costs.net.beta
                          : name == "gamma"     ? &costs.gamma
                                                : nullptr;
    QUOIT_CHECK(known && whole && value >= 0, UsageError, path, " line ", number, ": '", line,
                "' is not one of host_alpha, host_beta, net_alpha, net_beta, gamma = seconds: "
                "write the file with 'quoit tune'");
    *known = value;
  }
  return costs;
}

double predict(Op op, Algorithm algorithm, double bytes, const Shape& shape, const Costs& costs) {
  const std::vector<Algorithm> ways = algorithms_for(op, shape);
  QUOIT_CHECK(std::find(ways.begin(), ways.end(), algorithm) != ways.end(), UsageError, name_of(op),
              " cannot go by '", name_of(algorithm), "' with ", shape.ranks, " ranks on ",
              shape.hosts, " hosts: ask algorithms() what there is");
  return Model(shape, costs).seconds(op, algorithm, bytes);
}

double greeting(const Shape& shape, const Costs& costs) {
  if (shape.hosts == 1) return 0;
  return Model(shape, costs).seconds(Op::AllReduce, Algorithm::Doubling, 0);
}

Choice choose(Op op, double bytes, const Shape& shape, const Costs& costs) {
  const Model model(shape, costs);
  // No message is cheaper than memory that both sides see.
  if (shape.hosts == 1) return {Algorithm::Direct, model.seconds(op, Algorithm::Direct, bytes)};
  Choice best{Algorithm::Auto, std::numeric_limits<double>::infinity()};
  for (const Algorithm way : algorithms_for(op, shape))
    if (const double seconds = model.seconds(op, way, bytes); seconds < best.seconds)
      best = {way, seconds};
  return best;
}

Choice choose_across(double bytes, const Shape& shape, const Costs& costs) {
  return choose(Op::AllReduce, bytes, {shape.hosts, shape.hosts, 1}, costs);
}

}  // namespace quoit
