#include "collective/algorithm.h"

#include <array>

namespace quoit {
namespace {

constexpr std::array<std::string_view, 9> kNames{
    "auto", "direct", "ring", "chain", "doubling", "halving", "tree", "hierarchy", "pairwise"};

std::vector<Algorithm> ways_by_message(Op op) {
  switch (op) {
    case Op::AllReduce:
      return {Algorithm::Ring, Algorithm::Doubling, Algorithm::Halving};
    case Op::AllGather:
      return {Algorithm::Ring, Algorithm::Doubling};
    case Op::ReduceScatter:
      return {Algorithm::Ring, Algorithm::Halving};
    case Op::Reduce:
      return {Algorithm::Ring, Algorithm::Tree};
    case Op::Broadcast:
      return {Algorithm::Chain, Algorithm::Tree};
    case Op::Barrier:
      return {Algorithm::Doubling};
    default:
      return {Algorithm::Pairwise};
  }
}

}  // namespace

std::string_view name_of(Algorithm algorithm) {
  return kNames[static_cast<std::size_t>(algorithm)];
}

bool made_of_messages(Algorithm algorithm) {
  return algorithm != Algorithm::Auto && algorithm != Algorithm::Direct &&
         algorithm != Algorithm::Hierarchy;
}

Algorithm algorithm_named(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (kNames[i] == name) return static_cast<Algorithm>(i);
  throw UsageError(
      text("algorithm '", name,
           "' is not known: choose auto, direct, ring, chain, doubling, halving, tree, "
           "hierarchy or pairwise"));
}

std::vector<Algorithm> algorithms_for(Op op, const Shape& shape) {
  std::vector<Algorithm> ways = ways_by_message(op);
  if (shape.hosts == 1) ways.insert(ways.begin(), Algorithm::Direct);
  if (op == Op::AllReduce && shape.hosts > 1 && shape.ranks_per_host > 1)
    ways.push_back(Algorithm::Hierarchy);
  return ways;
}

}  // namespace quoit
