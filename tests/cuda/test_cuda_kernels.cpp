// Every kernel beside its CPU twin, bit for bit, on a CUDA device: the cases of
// tests/cpp/test_cuda_twins.cpp. Prints what failed; returns non-zero then, and where there is no
// device.
#include "cuda_codec_cases.h"
#include "cuda_low_rank_cases.h"
#include "cuda_reduce_cases.h"
#include "device.h"

using namespace quoit;
using namespace quoit::test;

namespace {

void* allocate(std::size_t bytes) {
  void* memory = nullptr;
  must(cudaMalloc(&memory, bytes), "cudaMalloc");
  return memory;
}

// On the default stream, as the kernels: what was launched is done first.
void copy(const void* from, void* to, std::size_t bytes) {
  must(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "a kernel, or the copy after it");
}

// Kernels must be captured as they are, and give the same when the graph is run.
void check_graph(const Machine& machine) {
  const std::vector<float> numbers = random_numbers(100000, Numbers::Plain);
  const Memory data(machine, bytes_of(numbers), 0);
  const CodecPtr codec = codec_named("int8");
  std::size_t size = 0;
  for (std::size_t at = 0; at < numbers.size(); at += kTile)
    size += codec->bytes(std::min(kTile, numbers.size() - at));
  const Memory out(machine, std::vector<std::byte>(size), 0);
  const Memory again(machine, std::vector<std::byte>(size), 0);
  const cuda::Run run{data.data(), nullptr, numbers.size(), 0, 0, DType::Float32};
  cuda::encode(machine.kernels, {cuda::Format::Int8}, {&run, 1}, {}, out.data(), {});

  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  must(cudaStreamCreate(&stream), "cudaStreamCreate");
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  cuda::encode(machine.kernels, {cuda::Format::Int8}, {&run, 1}, {}, again.data(), {stream, 2});
  must(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  must(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  must(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
  must(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  expect(again.bytes("a graph") == out.bytes("encode"), "a graph, on two blocks, writes otherwise");
  must(cudaGraphExecDestroy(exec), "cudaGraphExecDestroy");
  must(cudaGraphDestroy(graph), "cudaGraphDestroy");
  must(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

}  // namespace

int main() {
  need_device();
  const Machine device{cuda::kernels(), allocate,
                       [](void* memory) { must(cudaFree(memory), "cudaFree"); }, copy};
  check_codecs(device);
  check_low_rank_kernels(device);
  check_reductions(device);
  check_casts(device);
  check_copies(device);
  check_graph(device);
  std::printf("%d failures\n", failures);
  return failures > 0 ? 1 : 0;
}
