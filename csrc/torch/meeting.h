#pragma once
// How the ranks of a group meet in torch's store.
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "collective/connect.h"

namespace quoit {

// Everybody's string by way of the store. Ranks that cannot become one group, because they say
// different sizes or members or one rank twice, are told so while they wait for each other.
// `members` are the group's ranks in the whole job; empty where nobody said.
Rendezvous through_store(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                         const std::vector<std::int64_t>& members, Seconds timeout);

}  // namespace quoit
