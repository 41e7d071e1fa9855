#pragma once
// Collectives of log2(n) steps, in which a rank talks to ranks at distances 1, 2, 4 ...: cheaper
// than rings where the latency of a message counts (Thakur, Rabenseifner & Gropp, 2005). Positions
// are those of the ring, which goes host by host: the large first steps stay inside hosts.
//
// When n is no power of two, the first ranks go in pairs: one hands its part to the other, sits out
// and gets the result. Two ranks that combine their parts take the lower position's as first
// operand, so that both get the same bits.
#include <memory>
#include <vector>

#include "collective/ring.h"
#include "core/call.h"

namespace quoit {

// Recursive doubling: everybody's sum so far to everybody; log2(n) messages of the whole. Each
// begins with the call that its sender is in: ranks which disagree find out (UsageError), and who
// agrees with a rank that agrees with others agrees with them, so nobody is done before all agree.
// On memory of a device, which the host cannot read, they begin with none.
Task doubling_all_reduce(Hands hands, Ring ring, Call call, View in, View out, ReduceStep step,
                         std::shared_ptr<Workspace> workspace);

// The same messages with nothing in them but the call: what ranks of several hosts do beside every
// other collective.
Task greet(Network& net, Ring ring, Call call);

// Rabenseifner's: recursive halving leaves each rank a reduced piece, doubling spreads the pieces;
// 2 log2(n) messages that carry 2(n-1)/n of the whole.
Task halving_all_reduce(Hands hands, Ring ring, View in, View out, ReduceStep step,
                        std::shared_ptr<Workspace> workspace);

// Block i of `in` is reduced into the `out` of the rank at position i of the ring.
Task halving_reduce_scatter(Hands hands, Ring ring, std::vector<View> in, View out, ReduceStep step,
                            std::shared_ptr<Workspace> workspace);

// outs[i] receives the `in` of the rank at position i: Bruck et al., "Efficient algorithms for
// all-to-all communications in multiport message-passing systems", 1997.
Task doubling_all_gather(Hands hands, Ring ring, View in, std::vector<View> outs,
                         std::shared_ptr<Workspace> workspace);

// Binomial tree: reduces into `out` of `root`, log2(n) messages of the whole.
Task tree_reduce(Hands hands, Ring ring, View in, View out, ReduceStep step, int root,
                 std::shared_ptr<Workspace> workspace);

}  // namespace quoit
