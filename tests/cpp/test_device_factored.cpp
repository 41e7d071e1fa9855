// Low-rank parts by the kernels of CUDA, run by the host, beside the CPU's: the same bits in data,
// residuals and bases, step after step.
#include "device_world.h"
#include "kernels/cast.h"
#include "low_rank_world.h"

using namespace quoit;
using namespace quoit::test;

namespace {

struct Own {
  std::vector<std::byte> data;
  State state;
};

// `spoilt`: a step in which one rank gives a number that is none.
void beside_the_cpu(LowRank::Method method, DType dtype, int ranks, int spoilt) {
  std::vector<Own> cpu(static_cast<std::size_t>(ranks)), device = cpu;
  auto world = make_world(hosts_of(ranks, 1));
  for (int step = 0; step < 5; ++step) {
    const std::string said = text("method ", static_cast<int>(method), ", ", name_of(dtype),
                                  " over ", ranks, " ranks, step ", step);
    for (int r = 0; r < ranks; ++r) {
      std::vector<float> numbers = noise(total(), r, step);
      if (step == spoilt && r == ranks - 1) numbers[kTensors[0].count() + 1000] = INFINITY;
      for (auto* all : {&cpu, &device})
        (*all)[static_cast<std::size_t>(r)].data = as(dtype, numbers);
    }
    CompressionTerms terms;
    terms.unit = 2;
    on_all(world, [&](Communicator& c) {
      Own& own = cpu[static_cast<std::size_t>(c.rank())];
      wait(c, c.compressed_all_reduce({own.data.data(), total(), dtype},
                                      own.state.compression(method), terms, {ReduceOp::Avg}));
    });
    on_devices(ranks, [&](int rank, DeviceRun& on) {
      Own& own = device[static_cast<std::size_t>(rank)];
      Rooms rooms;
      DeviceAllReduce reduce({own.data.data(), total(), dtype}, own.state.compression(method),
                             terms_of(terms, {ReduceOp::Avg}, ranks), rank, ranks, rooms.room());
      run_at_once(reduce.run(static_cast<std::uint64_t>(step) + 1, on));
    });
    for (std::size_t r = 0; r < cpu.size(); ++r) {
      const bool finite = step != spoilt || dtype != DType::Float32;
      EXPECT(!finite || device[r].data == cpu[r].data, said, ": other data on rank ", r);
      EXPECT(same_bits(device[r].state.all(), cpu[r].state.all()), said, ": rank ", r,
             " keeps something else");
    }
  }
}

}  // namespace

int main() {
  for (const LowRank::Method method : kMethods)
    for (const int ranks : {1, 2, 3, 4, 5}) {
      beside_the_cpu(method, DType::Float32, ranks, -1);
      if (ranks > 3) continue;
      beside_the_cpu(method, DType::Float32, ranks, 2);
      beside_the_cpu(method, DType::BFloat16, ranks, -1);
      beside_the_cpu(method, DType::Float16, ranks, 1);
    }
}
