// The compressed collectives on NCCL: kernels of the codecs, and exchanges of encoded bytes, in one
// stream.
#include "collective/device_factored.h"
#include "torch/nccl_group.h"
#include "torch/tensors.h"

namespace quoit {
namespace {

using c10d::OpType;

View device_view(const at::Tensor& contiguous) {
  const DType dtype = dtype_of(contiguous);
  return {static_cast<std::byte*>(contiguous.data_ptr()), contiguous.nbytes() / size_of(dtype),
          dtype};
}

Terms terms_of(const TensorTerms& terms, int ranks) {
  const CompressionTerms how{.unit = terms.unit, .seed = terms.seed};
  return terms_of(how, {terms.mean ? ReduceOp::Avg : ReduceOp::Sum}, ranks);
}

// Turns are counted by the host, and would be the same in each replay.
bool takes_turns(const Compression& how) {
  for (const Part& part : how.parts())
    if (part.matrix && part.matrix->method == LowRank::Method::Acp) return true;
  return false;
}

}  // namespace

NcclGroup::Plan NcclGroup::compressed_plan(OpType type, const at::Tensor& tensor,
                                           const TensorCompression& compression,
                                           const TensorTerms& terms) const {
  const c10::Device device = tensor.device();
  QUOIT_CHECK(
      !is_capturing(c10::impl::VirtualGuardImpl(device.type()).getStream(device)) ||
          (!takes_turns(*compression.how) && !terms.fingerprint),
      UsageError,
      "compression in a graph capture: LowRank takes turns, and check_every compares on the "
      "host, which a replay does not: capture with LowRank(alternate=False) or another "
      "codec, and with check_every=0");
  Plan plan(type);
  plan.async = terms.async_op;
  for (const at::Tensor& kept : compression.held)
    if (kept.device() == device) plan.use(kept);
  compression.report->calls += 1;
  return plan;
}

void NcclGroup::add_steps(Plan& plan, const TensorCompression& compression,
                          std::function<Task(std::uint64_t, DeviceRun&)> work) {
  plan.steps.emplace_back([compression, work = std::move(work)](Steps& on) {
    const cuda::KernelSet& kernels = cuda::kernels();
    DeviceRun run{kernels, {on.stream, codec_blocks(kernels)}, on.exchange, *compression.report};
    run_at_once(work(on.sequence, run));
  });
}

NcclGroup::Handle NcclGroup::compressed_all_reduce(const at::Tensor& tensor,
                                                   const TensorCompression& compression,
                                                   const TensorTerms& terms) {
  return translated([&] {
    Plan call = compressed_plan(OpType::ALLREDUCE, tensor, compression, terms);
    const at::Tensor data = call.in_place(tensor, "compressed all_reduce: tensor");
    const auto room = [&](std::size_t bytes, bool zeroed) {
      return static_cast<std::byte*>(
          call.room(data, static_cast<std::int64_t>(bytes), zeroed).data_ptr());
    };
    const auto sum = std::make_shared<DeviceAllReduce>(device_view(data), compression.how,
                                                       terms_of(terms, size_), rank_, size_, room);
    const auto n = static_cast<std::size_t>(size_);
    compression.report->plain_bytes += 2 * data.nbytes() * (n - 1) / n;
    add_steps(call, compression, [sum, seed = terms.seed](std::uint64_t number, DeviceRun& on) {
      return sum->run(seed + number, on);
    });
    call.inputs = call.outputs = {tensor};
    return run(std::move(call));
  });
}

NcclGroup::Handle NcclGroup::compressed_reduce_scatter(const at::Tensor& input,
                                                       const at::Tensor& output,
                                                       const TensorCompression& compression,
                                                       const TensorTerms& terms) {
  return translated([&] {
    check_blocks(*compression.how, size_, "compressed reduce_scatter");
    Plan call = compressed_plan(OpType::_REDUCE_SCATTER_BASE, input, compression, terms);
    const at::Tensor data = call.in_place(input, "compressed reduce_scatter: input");
    const at::Tensor out = call.output(output, "compressed reduce_scatter: output");
    check_block(*compression.how, rank_, device_view(data), device_view(out));
    const auto sra =
        std::make_shared<DeviceSra>(cut_into_tiles(device_view(data), compression.how->parts()),
                                    blocks_of(*compression.how), SraStages::Scatter, rank_);
    const at::Tensor room = call.room(data, static_cast<std::int64_t>(sra->room()));
    const auto n = static_cast<std::size_t>(size_);
    compression.report->plain_bytes += data.nbytes() * (n - 1) / n;
    add_steps(call, compression,
              [sra, how = terms_of(terms, size_), at = static_cast<std::byte*>(room.data_ptr())](
                  std::uint64_t number, DeviceRun& on) {
                Terms now = how;
                now.seed += number;
                return sra->run(at, now, on);
              });
    const Slice mine = compression.how->parts()[static_cast<std::size_t>(rank_)].where;
    const at::Tensor sum =
        data.view({-1}).narrow(0, static_cast<std::int64_t>(mine.begin), out.numel());
    if (sum.data_ptr() != out.data_ptr())
      call.after.emplace_back([sum, out] { out.view({-1}).copy_(sum); });
    call.inputs = {input};
    call.outputs = {output};
    return run(std::move(call));
  });
}

NcclGroup::Handle NcclGroup::compressed_all_gather(const at::Tensor& tensor,
                                                   const TensorCompression& compression,
                                                   const TensorTerms& terms) {
  return translated([&] {
    check_blocks(*compression.how, size_, "compressed all_gather");
    Plan call = compressed_plan(OpType::_ALLGATHER_BASE, tensor, compression, terms);
    const at::Tensor data = call.in_place(tensor, "compressed all_gather: tensor");
    const auto sra =
        std::make_shared<DeviceSra>(cut_into_tiles(device_view(data), compression.how->parts()),
                                    blocks_of(*compression.how), SraStages::Gather, rank_);
    const at::Tensor room = call.room(data, static_cast<std::int64_t>(sra->room()));
    const Slice mine = compression.how->parts()[static_cast<std::size_t>(rank_)].where;
    compression.report->plain_bytes +=
        mine.count * data.element_size() * static_cast<std::size_t>(size_ - 1);
    add_steps(call, compression,
              [sra, seed = terms.seed, at = static_cast<std::byte*>(room.data_ptr())](
                  std::uint64_t number, DeviceRun& on) {
                return sra->run(at, Terms{.seed = seed + number}, on);
              });
    call.inputs = call.outputs = {tensor};
    return run(std::move(call));
  });
}

}  // namespace quoit
