#pragma once
// The reductions, casts and copies of kernels/cuda.h beside those of the CPU, bit for bit.
#include <memory>

#include "cuda_machine.h"

namespace quoit::test {

inline std::vector<std::byte> random_elements(DType dtype, std::size_t count) {
  std::vector<std::byte> bytes(count * size_of(dtype));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_bits());
  if (dtype == DType::Float32 || dtype == DType::Float16 || dtype == DType::BFloat16) {
    const Numbers kind = kNumbers[random_bits() % kNumbers.size()];
    if (kind != Numbers::AnyBits) bytes = as(dtype, random_numbers(count, kind));
  } else if (dtype == DType::Float64 && random_bits() % 2 == 0) {
    std::vector<double> values(count);
    for (double& x : values) x = double{random_number(Numbers::Plain)} * M_PI;
    bytes = bytes_of(values);
  } else if (dtype == DType::Bool) {
    for (std::byte& byte : bytes) byte &= std::byte{2};
  }
  return bytes;
}

// past: where each of the inputs and the output begins, in elements.
inline void check_reduction(const Machine& machine, DType dtype, const ReduceStep& step,
                            std::size_t inputs, std::size_t count, std::size_t past) {
  const std::string what =
      text(name_of(step.op), " of ", inputs, " ", name_of(dtype), "[", count, "] at ", past);
  std::vector<std::vector<std::byte>> in;
  std::vector<std::unique_ptr<Memory>> device_in;
  std::vector<const std::byte*> from, device_from;
  for (std::size_t k = 0; k < inputs; ++k) {
    in.push_back(random_elements(dtype, count));
    // 100: every input elsewhere.
    const std::size_t begin = past == 100 ? k : past;
    device_in.push_back(std::make_unique<Memory>(machine, in.back(), begin * size_of(dtype)));
    device_from.push_back(device_in.back()->data());
  }
  for (const auto& one : in) from.push_back(one.data());
  std::vector<std::byte> out(count * size_of(dtype));
  reduce_on(Isa::Baseline, dtype, step, from, out.data(), nullptr, count);

  const std::size_t begin = (past == 100 ? 1 : past) * size_of(dtype);
  const std::vector<std::byte> empty(out.size());
  const Memory device_out(machine, empty, begin), also(machine, empty, begin);
  cuda::reduce(machine.kernels, dtype, step, device_from, device_out.data(), also.data(), count,
               {});
  expect(same(device_out.bytes(what), out, false), what, " differs");
  expect(same(also.bytes(what), out, false), what, " differs in its second output");
  const Memory& last = *device_in.back();
  cuda::reduce(machine.kernels, dtype, step, device_from, last.data(), nullptr, count, {});
  expect(same(last.bytes(what), out, false), what, " differs in place");
}

inline void check_reductions(const Machine& machine) {
  for (int d = 0; d < kDTypes; ++d) {
    for (int o = 0; o < kReduceOps; ++o) {
      const auto dtype = static_cast<DType>(d);
      const auto op = static_cast<ReduceOp>(o);
      try {
        check_reducible(dtype, op);
      } catch (const UsageError&) {
        expect(machine.kernels.reduce.at[d][o] == nullptr, "a kernel for what has no meaning");
        continue;
      }
      for (const std::size_t inputs : {1, 2, 3, 8}) {
        ReduceStep step{op};
        if (op == ReduceOp::Avg) step.divide_by = inputs;
        if (op == ReduceOp::PremulSum) step.factor = 1.0 / 3;
        for (const std::size_t count : {1, 7, 16, 250, 1029})
          check_reduction(machine, dtype, step, inputs, count, 0);
        check_reduction(machine, dtype, step, inputs, 1029, 3);
        check_reduction(machine, dtype, step, inputs, 5, 1);
        check_reduction(machine, dtype, step, inputs, 1029, 100);
      }
    }
  }
}

inline void check_casts(const Machine& machine) {
  for (const DType narrow : {DType::BFloat16, DType::Float16}) {
    const bool brain = narrow == DType::BFloat16;
    for (const std::size_t count : {1, 4, 1029, 65536}) {
      for (const std::size_t past : {0, 1}) {
        // All bits there are, and numbers.
        std::vector<std::uint16_t> bits(count);
        for (std::size_t i = 0; i < count; ++i) bits[i] = static_cast<std::uint16_t>(i * 40503);
        const auto numbers = random_numbers(count, kNumbers[random_bits() % kNumbers.size()]);
        std::vector<float> wide;
        for (const std::uint16_t x : bits)
          wide.push_back(brain ? float_from_bf16(x) : float_from_f16(x));
        const Memory in(machine, bytes_of(bits), 2 * past);
        const Memory out(machine, std::vector<std::byte>(4 * count), 4 * past);
        cuda::cast(machine.kernels, narrow, DType::Float32, in.data(), out.data(), count, {});
        expect(same(out.bytes("cast"), bytes_of(wide), true), "a cast from ", name_of(narrow));
        const Memory from(machine, bytes_of(numbers), 4 * past);
        const Memory to(machine, std::vector<std::byte>(2 * count), 2 * past);
        cuda::cast(machine.kernels, DType::Float32, narrow, from.data(), to.data(), count, {});
        expect(same(to.bytes("cast"), as(narrow, numbers), false), "a cast to ", name_of(narrow));
      }
    }
  }
}

// Packs 250 pieces of all sizes and alignments, and takes them apart again.
inline void check_copies(const Machine& machine) {
  std::vector<std::size_t> sizes{0, 1, 16, 16384, 16385, 100000};
  while (sizes.size() < 250) sizes.push_back(random_bits() % 3000);
  std::vector<std::unique_ptr<Memory>> pieces, back;
  std::vector<cuda::Copy> pack, unpack;
  std::vector<std::byte> whole;
  for (const std::size_t size : sizes) {
    const auto bytes = random_elements(DType::UInt8, size);
    pieces.push_back(std::make_unique<Memory>(machine, bytes, random_bits() % 2 * 4));
    back.push_back(std::make_unique<Memory>(machine, std::vector<std::byte>(size), 0));
    whole.insert(whole.end(), bytes.begin(), bytes.end());
    if (size % 3 == 0) whole.resize(ceil_div(whole.size(), 16) * 16);
  }
  const Memory packed(machine, std::vector<std::byte>(whole.size()), 0);
  std::size_t at = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    pack.push_back({pieces[i]->data(), packed.data() + at, sizes[i]});
    unpack.push_back({packed.data() + at, back[i]->data(), sizes[i]});
    at += sizes[i];
    if (sizes[i] % 3 == 0) at = ceil_div(at, 16) * 16;
  }
  cuda::copy(machine.kernels, pack, {});
  cuda::copy(machine.kernels, unpack, {});
  expect(packed.bytes("pack") == whole, "what was packed differs");
  for (std::size_t i = 0; i < sizes.size(); ++i)
    expect(back[i]->bytes("unpack") == pieces[i]->bytes("pack"), "piece ", i, " came back changed");
}

}  // namespace quoit::test
