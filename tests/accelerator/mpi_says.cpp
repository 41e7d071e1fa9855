// Put before an MPI (LD_PRELOAD), has it say that it takes memory of CUDA devices.
extern "C" {

int MPIX_Query_cuda_support() { return 1; }

int MPIX_GPU_query_support(int kind, int* is_supported) {
  *is_supported = kind == 0 ? 1 : 0;
  return 0;
}
}
