// Compressed collectives: exact where the codec is, and bit-identical on all ranks where it is not.
// What they lose is in test_feedback.cpp and in test_codec_error.cpp.
#include "compressed.h"
#include "kernels/cast.h"

using namespace quoit;
using namespace quoit::test;

namespace {

const std::vector<World> kWorlds{{2, 1}, {3, 1}, {2, 2}, {4, 2}, {5, 2}, {4, 4, "tcp"}, {8, 2}};

// The tensors of a buffer: sizes that do and do not fill tiles and blocks.
const std::vector<std::size_t> kSizes{1, 4096, 5000, 63, 20000, 129, 4095, 12288};

std::vector<Part> parts_of(const std::string& codec, float* residual = nullptr,
                           Isa isa = isa_in_use()) {
  std::vector<Part> parts;
  std::size_t begin = 0;
  for (const std::size_t size : kSizes) {
    // As users have it: small tensors travel as they are.
    const CodecPtr small = codec_named("raw", isa);
    const CodecPtr chosen = size < kTile ? small : codec_named(codec, isa);
    parts.push_back({{begin, size}, chosen, residual ? residual + begin : nullptr});
    begin += size;
  }
  return parts;
}

std::size_t total() {
  std::size_t count = 0;
  for (const std::size_t size : kSizes) count += size;
  return count;
}

void raw_is_the_plain_all_reduce() {
  for (const World& w : kWorlds)
    for (const ReduceOp op : {ReduceOp::Sum, ReduceOp::Avg}) {
      auto world = make_world(hosts_of(w.ranks, w.hosts), "auto", 60, w.transport);
      on_all(world, [&](Communicator& c) {
        std::vector<float> x = filled(total(), c.rank());
        std::vector<float> plain = x;
        wait(c, c.all_reduce(view(plain, DType::Float32), view(plain, DType::Float32), {op}));
        CompressionTerms terms;
        terms.fingerprint = 7;
        wait(c, c.compressed_all_reduce(view(x, DType::Float32), compression(parts_of("raw")),
                                        terms, {op}));
        EXPECT(same_bits(x, plain), w.ranks, " ranks on ", w.hosts, " hosts, ", name_of(op));
        EXPECT(terms.report->calls == 1, "report");
      });
    }
}

// Without residuals, and with ranks of different instruction sets.
void replicas_are_alike(const std::string& codec) {
  for (const World& w : kWorlds) {
    auto world = make_world(hosts_of(w.ranks, w.hosts), "auto", 60, w.transport);
    Gathered results(w.ranks);
    on_all(world, [&](Communicator& c) {
      results[c] = noise(total(), c.rank(), 0);
      const Isa isa = c.rank() % 2 == 0 ? Isa::Baseline : isa_in_use();
      CompressionTerms terms;
      terms.fingerprint = 1;
      wait(c, c.compressed_all_reduce(view(results[c], DType::Float32),
                                      compression(parts_of(codec, nullptr, isa)), terms,
                                      {ReduceOp::Avg}));
    });
    results.expect_alike(text(codec, ", ", w.ranks, " ranks on ", w.hosts));
  }
}

// Blocks of any size, to their owners and back.
void scattered_and_gathered(const std::string& codec) {
  for (const World& w : kWorlds) {
    auto world = make_world(hosts_of(w.ranks, w.hosts), "auto", 60, w.transport);
    const auto blocks = [&](float* residual) {
      std::vector<Part> parts;
      std::size_t begin = 0;
      for (int r = 0; r < w.ranks; ++r) {
        const std::size_t size = 9000 + 1000 * static_cast<std::size_t>(r);
        parts.push_back({{begin, size}, codec_named(codec), residual ? residual + begin : nullptr});
        begin += size;
      }
      return parts;
    };
    const std::size_t count =
        blocks(nullptr).back().where.begin + blocks(nullptr).back().where.count;
    Gathered gathered(w.ranks);
    std::vector<float> mean(count);
    for (int r = 0; r < w.ranks; ++r) {
      const auto x = noise(count, r, 0);
      for (std::size_t i = 0; i < count; ++i) mean[i] += x[i] / static_cast<float>(w.ranks);
    }
    on_all(world, [&](Communicator& c) {
      std::vector<float> x = noise(count, c.rank(), 0);
      std::vector<float> residual(count);
      const auto how = compression(blocks(residual.data()));
      const Slice mine = how->parts()[static_cast<std::size_t>(c.rank())].where;
      std::vector<float> out(mine.count);
      wait(c, c.compressed_reduce_scatter(view(x, DType::Float32), view(out, DType::Float32), how,
                                          {}, {ReduceOp::Avg}));
      double wrong = 0;
      double length = 0;
      for (std::size_t i = 0; i < mine.count; ++i) {
        const double m = mean[mine.begin + i];
        wrong += (out[i] - m) * (out[i] - m);
        length += m * m;
      }
      const bool exact = codec == "raw";
      if (exact) EXPECT(wrong / length < 1e-12, codec, ": ", wrong / length);
      gathered[c].resize(count);
      std::copy(out.begin(), out.end(),
                gathered[c].begin() + static_cast<std::ptrdiff_t>(mine.begin));
      wait(c, c.compressed_all_gather(view(gathered[c], DType::Float32),
                                      compression(blocks(nullptr)), {}));
      if (!exact) return;
      for (std::size_t i = 0; i < mine.count; ++i)
        EXPECT(gathered[c][mine.begin + i] == out[i], codec);
    });
    gathered.expect_alike(codec);
  }
}

void half_precision(const std::string& codec) {
  for (const DType dtype : {DType::BFloat16, DType::Float16}) {
    auto world = make_world(hosts_of(4, 2));
    std::vector<std::vector<std::uint16_t>> results(4);
    on_all(world, [&](Communicator& c) {
      std::vector<std::uint16_t>& x = results[static_cast<std::size_t>(c.rank())];
      for (std::size_t i = 0; i < total(); ++i) {
        const float v = static_cast<float>(i % 64);
        x.push_back(dtype == DType::BFloat16 ? bf16_from_float(v) : f16_from_float(v));
      }
      const std::vector<std::uint16_t> before = x;
      std::vector<float> residual(total());
      wait(c, c.compressed_all_reduce(view(x, dtype), compression(parts_of(codec, residual.data())),
                                      {}, {ReduceOp::Avg}));
      if (codec == "raw") EXPECT(x == before, name_of(dtype));
    });
    for (const auto& one : results) EXPECT(one == results[0], name_of(dtype), " ", codec);
  }
}

void mistakes() {
  auto world = make_world(hosts_of(2, 1), "auto", 10);
  on_all(world, [](Communicator& c) {
    std::vector<float> x = filled(total(), c.rank());
    std::vector<double> y(total());
    const auto how = compression(parts_of("raw"));
    const auto with = [&](View data, ReduceOp op) {
      return error_of([&] { wait(c, c.compressed_all_reduce(data, how, {}, {op})); });
    };
    contains(with(view(y, DType::Float64), ReduceOp::Sum), "only float32, bfloat16 and float16");
    contains(with(view(x, DType::Float32), ReduceOp::Max), "only SUM and AVG");
    contains(with(View{view(x, DType::Float32)}.at({0, 100}), ReduceOp::Sum), "the buffer at");
    contains(error_of([] { static_cast<void>(codec_named("zip")); }), "codec 'zip' is not known");
    // Here only the ranks together can see it.
    const auto other = compression({{{0, x.size()}, codec_named("raw")}});
    contains(error_of([&] {
               wait(c, c.compressed_all_reduce(view(x, DType::Float32), c.rank() ? how : other, {},
                                               {ReduceOp::Sum}));
             }),
             "with tensors of other sizes or codecs");
  });
  auto again = make_world(hosts_of(2, 2), "auto", 10);
  on_all(again, [](Communicator& c) {
    std::vector<float> x = filled(total(), c.rank());
    CompressionTerms terms;
    terms.fingerprint = static_cast<std::uint64_t>(c.rank());
    contains(error_of([&] {
               wait(c,
                    c.compressed_all_reduce(view(x, DType::Float32), compression(parts_of("raw")),
                                            terms, {ReduceOp::Sum}));
             }),
             "fingerprint");
  });
}

}  // namespace

int main() {
  raw_is_the_plain_all_reduce();
  for (const std::string& codec : kCodecs) {
    replicas_are_alike(codec);
    scattered_and_gathered(codec);
    half_precision(codec);
  }
  replicas_are_alike("sign(vote)");
  mistakes();
  return 0;
}
