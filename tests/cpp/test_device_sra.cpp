// Compressed collectives by the kernels of CUDA, run by the host, beside those of the CPU: the same
// bits, in data and in residuals, for every codec and number of ranks.
#include "compressed.h"
#include "device_world.h"
#include "kernels/cast.h"

using namespace quoit;
using namespace quoit::test;

namespace {

// Tensors that do and do not fill tiles; several runs and chunks.
const std::vector<std::size_t> kSizes{1,     4096, 8192, 5000,  0,    63,
                                      30000, 129,  4095, 12288, 4096, 16384};
constexpr std::uint64_t kSeed = 77;

std::vector<std::string> codecs() {
  std::vector<std::string> all = kCodecs;
  all.emplace_back("sign(vote)");
  return all;
}

std::size_t total() {
  std::size_t count = 0;
  for (const std::size_t size : kSizes) count += size;
  return count;
}

// What a rank gives and keeps.
struct Own {
  std::vector<std::byte> data;
  std::vector<float> residual;
};

// As users have it: small tensors travel as they are, and so do some others. Some that lie together
// have one codec, and not all a residual.
std::vector<Part> parts_of(const std::string& codec, float* residual) {
  std::vector<Part> parts;
  std::size_t begin = 0;
  const CodecPtr raw = codec_named("raw"), chosen = codec_named(codec);
  for (const std::size_t size : kSizes) {
    const bool plain = size < kTile || size == 12288;
    const bool keeps = !plain && residual != nullptr && size != 16384;
    parts.push_back({{begin, size}, plain ? raw : chosen, keeps ? residual + begin : nullptr});
    begin += size;
  }
  return parts;
}

// A block for each rank; none for the second.
std::vector<Part> blocks_for(int ranks, const std::string& codec, float* residual) {
  std::vector<Part> parts;
  std::size_t begin = 0;
  for (int r = 0; r < ranks; ++r) {
    const std::size_t size = r == 1 ? 0 : 9000 + 1000 * static_cast<std::size_t>(r);
    parts.push_back({{begin, size}, codec_named(codec), residual ? residual + begin : nullptr});
    begin += size;
  }
  return parts;
}

std::size_t count_of(const std::vector<Part>& parts) {
  return parts.back().where.begin + parts.back().where.count;
}

View view_of(std::vector<std::byte>& bytes, DType dtype) {
  return {bytes.data(), bytes.size() / size_of(dtype), dtype};
}

// One case of a collective: the same on the CPU and on devices.
struct Case {
  std::string codec;
  DType dtype;
  bool feedback;
  ReduceOp op;
  int ranks;

  [[nodiscard]] std::string said(int step) const {
    return text(codec, feedback ? " with residuals, " : ", ", name_of(dtype), ", ", name_of(op),
                " over ", ranks, " ranks, step ", step);
  }
  [[nodiscard]] CompressionTerms terms() const {
    CompressionTerms terms;
    terms.unit = 4;
    terms.seed = kSeed;
    return terms;
  }
};

std::vector<Own> fresh(const Case& one, std::size_t count) {
  std::vector<Own> all(static_cast<std::size_t>(one.ranks));
  for (std::size_t r = 0; r < all.size(); ++r) {
    all[r].residual = noise(count, static_cast<int>(r), 100);  // as if calls had been before
    for (float& x : all[r].residual) x *= 0.125F;
  }
  return all;
}

void fill(std::vector<Own>& all, const Case& one, int step) {
  for (std::size_t r = 0; r < all.size(); ++r)
    all[r].data = as(one.dtype, noise(all[r].residual.size(), static_cast<int>(r), step));
}

void expect_same(const std::vector<Own>& got, const std::vector<Own>& wanted, const Case& one,
                 int step) {
  for (std::size_t r = 0; r < got.size(); ++r) {
    EXPECT(got[r].data == wanted[r].data, one.said(step), ": other data on rank ", r);
    EXPECT(same_bits(got[r].residual, wanted[r].residual), one.said(step), ": rank ", r,
           " has another residual");
  }
}

void all_reduce(const Case& one) {
  std::vector<Own> cpu = fresh(one, total()), device = cpu;
  auto world = make_world(hosts_of(one.ranks, 1));
  std::vector<std::uint64_t> sent(cpu.size());
  for (int step = 0; step < (one.feedback ? 3 : 1); ++step) {
    fill(cpu, one, step);
    fill(device, one, step);
    const auto how = [&](Own& own) {
      return compression(parts_of(one.codec, one.feedback ? own.residual.data() : nullptr));
    };
    on_all(world, [&](Communicator& c) {
      Own& own = cpu[static_cast<std::size_t>(c.rank())];
      const CompressionTerms terms = one.terms();
      wait(c, c.compressed_all_reduce(view_of(own.data, one.dtype), how(own), terms, {one.op}));
      sent[static_cast<std::size_t>(c.rank())] = terms.report->sent_bytes;
    });
    on_devices(one.ranks, [&](int rank, DeviceRun& on) {
      Own& own = device[static_cast<std::size_t>(rank)];
      Rooms rooms;
      DeviceAllReduce reduce(view_of(own.data, one.dtype), how(own),
                             terms_of(one.terms(), {one.op}, one.ranks), rank, one.ranks,
                             rooms.room());
      run_at_once(reduce.run(kSeed + static_cast<std::uint64_t>(step) + 1, on));
      EXPECT(on.report.sent_bytes == sent[static_cast<std::size_t>(rank)], one.said(step), ": ",
             on.report.sent_bytes, " bytes sent");
    });
    expect_same(device, cpu, one, step);
  }
}

void scatter_and_gather(const Case& one) {
  const std::size_t count = count_of(blocks_for(one.ranks, one.codec, nullptr));
  std::vector<Own> cpu = fresh(one, count), device = cpu;
  auto world = make_world(hosts_of(one.ranks, 1));
  for (int step = 0; step < 2; ++step) {
    fill(cpu, one, step);
    fill(device, one, step);
    const auto how = [&](Own& own) {
      return compression(
          blocks_for(one.ranks, one.codec, one.feedback ? own.residual.data() : nullptr));
    };
    on_all(world, [&](Communicator& c) {
      Own& own = cpu[static_cast<std::size_t>(c.rank())];
      const View data = view_of(own.data, one.dtype);
      const View mine = data.at(how(own)->parts()[static_cast<std::size_t>(c.rank())].where);
      wait(c, c.compressed_reduce_scatter(data, mine, how(own), one.terms(), {one.op}));
      wait(c, c.compressed_all_gather(data, compression(blocks_for(one.ranks, one.codec, nullptr)),
                                      one.terms()));
    });
    on_devices(one.ranks, [&](int rank, DeviceRun& on) {
      Own& own = device[static_cast<std::size_t>(rank)];
      const View data = view_of(own.data, one.dtype);
      Terms terms = terms_of(one.terms(), {one.op}, one.ranks);
      Rooms rooms;
      for (const SraStages stages : {SraStages::Scatter, SraStages::Gather}) {
        const auto blocks = how(own);
        const bool gathers = stages == SraStages::Gather;
        const auto parts = gathers ? blocks_for(one.ranks, one.codec, nullptr) : blocks->parts();
        const DeviceSra sra(cut_into_tiles(data, parts), blocks_of(*blocks), stages, rank);
        terms.seed = kSeed + 2 * static_cast<std::uint64_t>(step) + (gathers ? 2 : 1);
        run_at_once(
            sra.run(rooms.get(sra.room(), false), gathers ? Terms{.seed = terms.seed} : terms, on));
      }
    });
    expect_same(device, cpu, one, step);
  }
}

void beside_the_cpu(const std::string& codec, int ranks) {
  for (const DType dtype : {DType::Float32, DType::BFloat16, DType::Float16})
    for (const bool feedback : {false, true})
      for (const ReduceOp op : {ReduceOp::Sum, ReduceOp::Avg}) {
        if (dtype != DType::Float32 && (op == ReduceOp::Sum) == feedback) continue;
        const Case one{codec, dtype, feedback, op, ranks};
        all_reduce(one);
        scatter_and_gather(one);
      }
}

void nothing_at_all() {
  on_devices(3, [](int rank, DeviceRun& on) {
    Rooms rooms;
    const DeviceAllReduce none({nullptr, 0, DType::Float32}, compression({}), {}, rank, 3,
                               rooms.room());
    run_at_once(none.run(0, on));
    EXPECT(on.report.sent_bytes == 0, on.report.sent_bytes);
  });
}

// Tiles of one codec that lie together are one run, whichever tensors they are of: few launches.
void few_launches() {
  static int launches;
  launches = 0;
  cuda::KernelSet counted = host_kernels();
  constexpr auto kInt8 = static_cast<std::size_t>(cuda::Format::Int8);
  counted.tiles[kInt8].sum = [](const cuda::TileArgs& args, const cuda::Launch& launch) {
    ++launches;
    host_kernels().tiles[kInt8].sum(args, launch);
  };
  std::vector<float> data(100 * kTile);
  std::vector<Part> parts;
  const CodecPtr codec = codec_named("int8");
  for (std::size_t i = 0; i < 100; ++i) parts.push_back({{i * kTile, kTile}, codec});
  const auto tiles = cut_into_tiles(view(data, DType::Float32), parts);
  const DeviceSra sra(tiles, {{0, 100}, {100, 100}}, SraStages::Gather, 0);
  CompressionReport report;
  DeviceRun on{counted, {}, [](DeviceExchange) -> Task { co_return; }, report};
  Rooms rooms;
  run_at_once(sra.run(rooms.get(sra.room(), false), {}, on));
  EXPECT(launches == 1, launches);
}

void refusals() {
  const std::vector<TileRange> chunks(cuda::kMostPeers + 1);
  contains(error_of([&] { DeviceSra({}, chunks, SraStages::Both, 0); }),
           "compression over 129 ranks on devices: their kernels add up at most 128");
  EXPECT(codec_blocks(host_kernels()) == 8, "of 4 processors");
  setenv("QUOIT_CODEC_BLOCKS", "0", 1);
  EXPECT(codec_blocks(host_kernels()) == 0, "no limit");
  setenv("QUOIT_CODEC_BLOCKS", "100", 1);
  EXPECT(codec_blocks(host_kernels()) == 100, "as asked");
  for (const char* const wrong : {"-1", "1.5", "1e9"}) {
    setenv("QUOIT_CODEC_BLOCKS", wrong, 1);
    contains(error_of([] { codec_blocks(host_kernels()); }), "it must be a whole number");
  }
  unsetenv("QUOIT_CODEC_BLOCKS");
}

}  // namespace

int main() {
  for (const std::string& codec : codecs())
    for (const int ranks : {1, 2, 3, 4, 5}) beside_the_cpu(codec, ranks);
  nothing_at_all();
  few_launches();
  refusals();
}
