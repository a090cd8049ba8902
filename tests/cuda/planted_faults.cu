// A fault for each tool of compute-sanitizer: scripts/sanitize-cuda.py asks each to find its own.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

namespace {

constexpr int kThreads = 64;

// Two warps, and no barrier between what one writes and the other reads.
__global__ void race(float* data) {
  __shared__ float shared[kThreads];
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  data[threadIdx.x] = shared[(threadIdx.x + 32) % kThreads];
}

__global__ void write_one_too_many(float* data) { data[threadIdx.x + 1] = 0; }

__global__ void read_before_written(float* data) { data[threadIdx.x] += 1; }

// Half of a warp waits for the other half only.
__global__ void wait_for_others(float* data) {
  if (threadIdx.x % 32 < 16) __syncwarp(0xffff0000u);
  data[threadIdx.x] = 0;
}

struct Fault {
  const char* tool;
  void (*kernel)(float*);
};

constexpr Fault kFaults[] = {{"racecheck", race},
                             {"memcheck", write_one_too_many},
                             {"initcheck", read_before_written},
                             {"synccheck", wait_for_others}};

}  // namespace

int main(int argc, char** argv) {
  for (const Fault& fault : kFaults) {
    if (argc != 2 || std::strcmp(argv[1], fault.tool) != 0) continue;
    float* data = nullptr;
    cudaMalloc(&data, kThreads * sizeof(float));
    fault.kernel<<<1, kThreads>>>(data);
    std::puts(cudaGetErrorString(cudaDeviceSynchronize()));
    return 0;
  }
  std::fputs("cuda_planted_faults: which tool's? racecheck, memcheck, initcheck or synccheck\n",
             stderr);
  return 2;
}
