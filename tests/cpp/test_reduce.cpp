// Reductions against an element-by-element reference that shares no code with them, bit for bit, on
// every instruction set of this machine. Prints what failed; returns non-zero then.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "checks.h"
#include "kernels/cast.h"
#include "kernels/reduce.h"
#include "reduce_reference.h"

using namespace quoit;

namespace {

template <class E, class F>
void expect_throws(F&& call, const std::string& what, const std::string& part) {
  try {
    call();
    EXPECT(false, what, " did not throw");
  } catch (const E& error) {
    const bool found = std::string(error.what()).find(part) != std::string::npos;
    EXPECT(found, what, " said '", error.what(), "', without '", part, "'");
  }
}

// ---- Cases.

std::mt19937_64 random_bits(2024);

constexpr std::array<double, 8> kSpecial{0.0, -0.0, 1.0, 65504.0, 1e-7, 3e38, HUGE_VAL, -HUGE_VAL};

// Plain numbers mostly, so that sums round; now and then any bits at all or a special value.
std::uint64_t random_element(DType dtype) {
  const std::uint64_t any = random_bits();
  const std::uint64_t kind = random_bits() % 16;
  if (dtype > DType::Float8) {
    const std::uint64_t lowest = 1ULL << (8 * size_of(dtype) - 1);
    return kind < 4 ? any % 3 : kind == 4 ? lowest - any % 2 : any;
  }
  const double number = static_cast<double>(static_cast<std::int64_t>(any)) * 0x1p-60;
  const double special = kSpecial[any % kSpecial.size()];
  const double value = kind < 2 ? special : number;
  switch (dtype) {
    case DType::Float64:
      return kind == 2 ? any : bits_as<std::uint64_t>(value);
    case DType::Float32:
      return kind == 2 ? any >> 32 : bits_as<std::uint32_t>(static_cast<float>(value));
    default:
      return kind == 2 ? any >> 48 : narrow(dtype == DType::Float16 ? kHalf : kBrain, value);
  }
}

std::vector<ReduceStep> steps_of(ReduceOp op) {
  if (op == ReduceOp::Avg) {
    std::vector<ReduceStep> steps;
    for (const std::uint64_t divide_by : {1ULL, 2ULL, 3ULL, 7ULL, 128ULL, 255ULL, 32768ULL,
                                          70000ULL, 1ULL << 31, 1ULL << 40, 1ULL << 63, ~0ULL}) {
      steps.push_back({op, 1.0, divide_by});
    }
    return steps;
  }
  if (op == ReduceOp::PremulSum) return {{op, 1.0 / 3}, {op, 1.5}, {op, -0.0}, {op, 1e-6}};
  return {{op}};
}

constexpr std::size_t kGuard = 64;

// Bytes between guards, at a chosen distance from an aligned address.
class Buffer {
 public:
  Buffer(std::size_t bytes, std::size_t offset)
      : storage_(bytes + offset + 2 * kGuard, std::byte{0xa5}),
        begin_(kGuard + offset),
        size_(bytes) {}
  std::byte* data() { return storage_.data() + begin_; }
  [[nodiscard]] bool guards_intact() const {
    for (std::size_t i = 0; i < storage_.size(); ++i) {
      if ((i < begin_ || i >= begin_ + size_) && storage_[i] != std::byte{0xa5}) return false;
    }
    return true;
  }

 private:
  std::vector<std::byte> storage_;
  std::size_t begin_;
  std::size_t size_;
};

struct Problem {
  DType dtype;
  ReduceStep step;
  std::size_t count;
  std::vector<std::vector<std::byte>> inputs;
  std::vector<std::byte> expected;
};

Problem make_problem(DType dtype, const ReduceStep& step, std::size_t n, std::size_t count) {
  const std::size_t size = size_of(dtype);
  Problem problem{dtype, step, count, {}, std::vector<std::byte>(count * size)};
  problem.inputs.assign(n, problem.expected);
  std::vector<std::uint64_t> elements(n);
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t k = 0; k < n; ++k) {
      std::uint64_t element = random_element(dtype);
      std::memcpy(problem.inputs[k].data() + i * size, &element, size);
      elements[k] = 0;
      std::memcpy(&elements[k], &element, size);
    }
    const std::uint64_t result = reference(dtype, step, elements);
    std::memcpy(problem.expected.data() + i * size, &result, size);
  }
  return problem;
}

// `place` is the input that is also the output; none when it equals the number of inputs.
void run(const Problem& problem, Isa isa, std::size_t place, std::size_t offset, bool twice) {
  const std::size_t bytes = problem.expected.size();
  const std::size_t n = problem.inputs.size();
  std::vector<Buffer> buffers(n + 2, Buffer(bytes, offset));
  std::vector<const std::byte*> in;
  for (std::size_t k = 0; k < n; ++k) {
    if (bytes > 0) std::memcpy(buffers[k].data(), problem.inputs[k].data(), bytes);
    in.push_back(buffers[k].data());
  }
  std::byte* const also = buffers[n + 1].data();
  reduce_on(isa, problem.dtype, problem.step, in, buffers[place].data(), twice ? also : nullptr,
            problem.count);
  const auto holds = [&](Buffer& buffer, const std::vector<std::byte>& wanted) {
    return bytes == 0 || std::memcmp(buffer.data(), wanted.data(), bytes) == 0;
  };
  std::string wrong;
  if (!holds(buffers[place], problem.expected)) wrong += " out differs;";
  if (twice && !holds(buffers[n + 1], problem.expected)) wrong += " also differs;";
  for (std::size_t k = 0; k < n; ++k) {
    if (k != place && !holds(buffers[k], problem.inputs[k])) wrong += " an input changed;";
  }
  for (const Buffer& buffer : buffers) {
    if (!buffer.guards_intact()) wrong += " wrote outside;";
  }
  const ReduceStep& step = problem.step;
  EXPECT(wrong.empty(), name_of(isa), " ", name_of(problem.dtype), " ", name_of(step.op), " of ", n,
         " x ", problem.count, ", factor ", step.factor, ", divided by ", step.divide_by, ", out ",
         place, ", offset ", offset, ":", wrong);
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::Baseline, Isa::X86V3, Isa::X86V4}) {
    if (isa_available(isa)) isas.push_back(isa);
  }
  return isas;
}

void test_all_reductions() {
  constexpr std::array<std::size_t, 13> kCounts{0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 1000, 4099};
  std::size_t turn = 0;
  for (int d = 0; d < kDTypes; ++d) {
    for (int o = 0; o < kReduceOps; ++o) {
      const auto dtype = static_cast<DType>(d);
      const auto op = static_cast<ReduceOp>(o);
      if (!reference_supports(dtype, op)) continue;
      const std::vector<ReduceStep> steps = steps_of(op);
      for (const std::size_t n : {1, 2, 3, 5, 8}) {
        for (const std::size_t count : kCounts) {
          const Problem problem = make_problem(dtype, steps[turn++ % steps.size()], n, count);
          for (const Isa isa : available_isas()) {
            for (std::size_t place = 0; place <= n; ++place) {
              for (const std::size_t offset : {std::size_t{0}, size_of(dtype), std::size_t{1}}) {
                run(problem, isa, place, offset, false);
                run(problem, isa, place, offset, true);
              }
            }
          }
        }
      }
    }
  }
}

// Every int8 by every divisor up to beyond its range.
void test_integer_average() {
  std::vector<std::int8_t> in(256), out(256);
  for (int i = 0; i < 256; ++i) in[static_cast<std::size_t>(i)] = static_cast<std::int8_t>(i - 128);
  const std::array<const std::byte*, 1> inputs{reinterpret_cast<const std::byte*>(in.data())};
  for (const Isa isa : available_isas()) {
    for (std::uint64_t divide_by = 1; divide_by < 300; ++divide_by) {
      reduce_on(isa, DType::Int8, {ReduceOp::Avg, 1.0, divide_by}, inputs,
                reinterpret_cast<std::byte*>(out.data()), nullptr, 256);
      for (std::size_t i = 0; i < 256; ++i) {
        EXPECT(out[i] == in[i] / static_cast<int>(divide_by), name_of(isa),
               " int8 AVG: ", int{in[i]}, " / ", divide_by, " = ", int{out[i]});
      }
    }
  }
}

// ---- Conversions.

static_assert(f16_from_float(65519.996F) == 0x7bff && f16_from_float(65520.0F) == 0x7c00);
static_assert(f16_from_float(0x1p-25F) == 0 && f16_from_float(0x1.002p-25F) == 1);
static_assert(bf16_from_float(0x1.01p0F) == 0x3f80 && bf16_from_float(0x1.03p0F) == 0x3f82);

void test_narrowing(float x) {
  EXPECT(f16_from_float(x) == narrow(kHalf, x), "float ", x, " to float16");
  EXPECT(bf16_from_float(x) == narrow(kBrain, x), "float ", x, " to bfloat16");
}

void test_conversions() {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto x = static_cast<std::uint16_t>(bits);
    const float half = float_from_f16(x);
    const float brain = float_from_bf16(x);
    if (std::isnan(half)) {
      const std::uint32_t quiet = (x & 0x8000U) << 16 | 0x7fc00000U | (x & 0x03ffU) << 13;
      EXPECT(bits_as<std::uint32_t>(half) == quiet, "float16 NaN ", bits, " to float");
      EXPECT(f16_from_float(half) == kFloat16NaN, "float16 NaN ", bits, " there and back");
    } else {
      EXPECT(bits_as<std::uint32_t>(half) ==
                 bits_as<std::uint32_t>(static_cast<float>(widen(kHalf, x))),
             "float16 ", bits, " to float");
      EXPECT(f16_from_float(half) == x, "float16 ", bits, " there and back");
    }
    EXPECT(bits_as<std::uint32_t>(brain) == bits << 16, "bfloat16 ", bits, " to float");
    EXPECT(bf16_from_float(brain) == (std::isnan(brain) ? kBFloat16NaN : x), "bfloat16 ", bits,
           " there and back");
    // The ties between neighbours, and the floats next to them.
    const float half_tie = (half + float_from_f16(static_cast<std::uint16_t>(x + 1))) / 2;
    const auto brain_tie = bits_as<float>(bits << 16 | 0x8000U);
    for (const float tie : {half_tie, brain_tie}) {
      test_narrowing(tie);
      test_narrowing(std::nextafter(tie, INFINITY));
      test_narrowing(std::nextafter(tie, -INFINITY));
    }
  }
  for (std::uint64_t bits = 0; bits < 1ULL << 32; bits += 4093) {
    test_narrowing(bits_as<float>(static_cast<std::uint32_t>(bits)));
  }
}

// All 65536 values of both formats through every instruction set, spread over floats by factors.
void test_all_16_bit_values() {
  constexpr std::size_t kValues = 65536;
  std::vector<std::uint16_t> in(kValues), out(kValues);
  for (std::size_t i = 0; i < kValues; ++i) in[i] = static_cast<std::uint16_t>(i);
  const std::array<const std::byte*, 1> inputs{reinterpret_cast<const std::byte*>(in.data())};
  for (const DType dtype : {DType::Float16, DType::BFloat16}) {
    for (const double factor :
         {1.0, 1.0 / 3, -0.1, 0x1p-11, 0x1.8p-11, 0x1.fffffep-1, 1.0009765625}) {
      const ReduceStep step{ReduceOp::PremulSum, factor};
      std::vector<std::uint16_t> expected;
      for (const std::uint16_t x : in) {
        expected.push_back(static_cast<std::uint16_t>(reference(dtype, step, {x})));
      }
      for (const Isa isa : available_isas()) {
        reduce_on(isa, dtype, step, inputs, reinterpret_cast<std::byte*>(out.data()), nullptr,
                  kValues);
        EXPECT(out == expected, name_of(isa), " all of ", name_of(dtype), " times ", factor);
      }
    }
  }
}

// ---- Errors and the choice of instruction set.

void test_errors() {
  std::array<std::byte, 8> x{}, out{};
  const std::array<const std::byte*, 2> in{x.data(), x.data()};
  for (int d = 0; d < kDTypes; ++d) {
    for (int o = 0; o < kReduceOps; ++o) {
      const auto dtype = static_cast<DType>(d);
      const auto op = static_cast<ReduceOp>(o);
      const std::string name = text(name_of(op), " of ", name_of(dtype));
      if (reference_supports(dtype, op)) {
        check_reducible(dtype, op);
        continue;
      }
      expect_throws<UsageError>([&] { check_reducible(dtype, op); }, name, name);
      for (const Isa isa : available_isas()) {
        expect_throws<UsageError>([&] { reduce_on(isa, dtype, {op}, in, out.data(), nullptr, 1); },
                                  name, name);
      }
    }
  }
  expect_throws<UsageError>([] { check_reducible(DType::Float32, ReduceOp::Band); }, "BAND",
                            "float32 supports SUM, AVG, PRODUCT, MIN, MAX or PREMUL_SUM");
  const auto run_float = [&](DType dtype, ReduceStep step, std::size_t n) {
    reduce(dtype, step, std::span(in).first(n), out.data(), nullptr, 1);
  };
  expect_throws<UsageError>([&] { run_float(DType::Float32, {ReduceOp::Sum}, 0); }, "no inputs",
                            "SUM");
  expect_throws<UsageError>([&] { run_float(DType::Int32, {ReduceOp::Avg, 1.0, 0}, 2); },
                            "divide_by 0", "AVG");
  expect_throws<UsageError>([&] { run_float(static_cast<DType>(200), {}, 2); }, "bad dtype", "200");
  expect_throws<UsageError>([&] { run_float(DType::Float32, {static_cast<ReduceOp>(99)}, 2); },
                            "bad op", "99");
}

void test_isas() {
  EXPECT(isa_available(Isa::Baseline), "baseline is always there");
  EXPECT(isa_in_use() == available_isas().back(), "the best instruction set is in use");
  std::array<float, 1> x{1.5F}, out{};
  const auto* const bytes = reinterpret_cast<const std::byte*>(x.data());
  const std::array<const std::byte*, 2> in{bytes, bytes};
  auto* const result = reinterpret_cast<std::byte*>(out.data());
  reduce(DType::Float32, {}, in, result, nullptr, 1);
  EXPECT(out[0] == 3.0F, "reduce sums");
  for (const Isa isa : {Isa::X86V3, Isa::X86V4}) {
    if (isa_available(isa)) continue;
    std::printf("not on this machine: %s\n", std::string(name_of(isa)).c_str());
    expect_throws<UnavailableError>(
        [&] { reduce_on(isa, DType::Float32, {}, in, result, nullptr, 1); },
        std::string(name_of(isa)), std::string(name_of(isa)));
  }
}

}  // namespace

int main() {
  test_conversions();
  test_all_16_bit_values();
  test_integer_average();
  test_all_reductions();
  test_errors();
  test_isas();
  return quoit::test::verdict();
}
