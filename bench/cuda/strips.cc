// What a bound on the GPU's memory costs: the bus's rates, then decoding and encoding within
// bounds.
//   calotype_strips_bench [ROUNDS]
#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "calotype/autoencoder_kl.h"
#include "calotype/error.h"

namespace {

using namespace calotype;  // NOLINT: a program of one file

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void bus() {
  const size_t bytes = size_t{1} << 30;
  void *host[2], *device[2];
  const double start = now();
  for (int i = 0; i < 2; i++) {
    if (cudaMallocHost(&host[i], bytes) != cudaSuccess ||
        cudaMalloc(&device[i], bytes) != cudaSuccess) {
      std::printf("no memory\n");
      return;
    }
  }
  std::printf("pinning 2 GiB: %.2f s\n", now() - start);
  cudaStream_t up, down;
  cudaStreamCreateWithFlags(&up, cudaStreamNonBlocking);
  cudaStreamCreateWithFlags(&down, cudaStreamNonBlocking);
  const auto rate = [&](const char* name, bool upload, bool download) {
    double best = 1e9;
    for (int round = 0; round < 4; round++) {
      cudaDeviceSynchronize();
      const double first = now();
      for (size_t at = 0; at < bytes; at += bytes / 32) {
        char* const to = static_cast<char*>(device[0]) + at;
        char* const back = static_cast<char*>(host[1]) + at;
        if (upload)
          cudaMemcpyAsync(to, static_cast<char*>(host[0]) + at, bytes / 32, cudaMemcpyHostToDevice,
                          up);
        if (download)
          cudaMemcpyAsync(back, static_cast<char*>(device[1]) + at, bytes / 32,
                          cudaMemcpyDeviceToHost, down);
      }
      cudaDeviceSynchronize();
      best = std::min(best, now() - first);
    }
    std::printf("%s: %.1f GB/s\n", name, static_cast<double>(bytes) / best * 1e-9);
  };
  rate("up", true, false);
  rate("down", false, true);
  rate("each way at once", true, true);
  for (int i = 0; i < 2; i++) {
    cudaFreeHost(host[i]);
    cudaFree(device[i]);
  }
}

struct Job {
  bool encode;
  int64_t size;  // of the picture
  int64_t memory;
  Precision precision = Precision::kBF16;
};

void measure(const AutoencoderKL& vae, const Job& job, int rounds, std::vector<uint8_t>& whole) {
  RunOptions options;
  options.backend = Backend::kCuda;
  options.memory = job.memory;
  options.precision = job.precision;
  const int64_t size = job.size;
  Tensor input(job.encode ? Shape{1, size, size, 3} : Shape{1, size / 8, size / 8, 16});
  std::mt19937 random(1);  // NOLINT: the same every time
  std::normal_distribution<float> normal;
  for (float& v : input.values()) v = normal(random);
  const Plan plan = job.encode ? vae.plan_encode(1, size, size, options)
                               : vae.plan_decode(1, size, size, options);
  std::printf(
      "%s%s %ldx%ld within %.2f GiB: plan %.2f GiB, host %.2f GiB, least %.2f GiB, expected %.2f "
      "s; ",
      job.encode ? "encode" : "decode", job.precision == Precision::kF32 ? " f32" : "", size, size,
      static_cast<double>(job.memory) / (1 << 30),
      static_cast<double>(plan.planned_peak_bytes) / (1 << 30),
      static_cast<double>(plan.host_bytes) / (1 << 30),
      static_cast<double>(plan.minimum_bytes) / (1 << 30), plan.seconds);
  for (int i = 0; i < rounds; i++) {
    const double start = now();
    std::vector<uint8_t> bytes;
    if (job.encode) {
      vae.encode(input, options);
    } else {
      bytes = vae.decode_bytes(input, options);
    }
    std::printf("%.3f s ", now() - start);
    std::fflush(stdout);
    if (job.encode || i + 1 < rounds) continue;
    if (job.memory == 0) {
      whole = bytes;
    } else if (whole.size() == bytes.size()) {
      int64_t most = 0, differing = 0;
      for (size_t k = 0; k < bytes.size(); k++) {
        const int64_t d = std::abs(int{bytes[k]} - int{whole[k]});
        most = std::max(most, d);
        differing += d > 0;
      }
      std::printf("bytes that differ: %.2f %%, by %ld at most",
                  1e2 * static_cast<double>(differing) / static_cast<double>(bytes.size()), most);
    }
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 3;
  bus();
  constexpr int64_t kGiB = int64_t{1} << 30;
  const AutoencoderKL vae(random_model(family_config("flux"), 1));
  std::vector<uint8_t> whole;
  const auto jobs = {Job{false, 1024, 0},
                     Job{false, 1024, kGiB / 2},
                     Job{false, 2048, 0},
                     Job{false, 2048, 2 * kGiB},
                     Job{false, 2048, kGiB},
                     Job{false, 2048, kGiB / 2},
                     Job{false, 4096, 0},
                     Job{false, 4096, 4 * kGiB},
                     Job{false, 4096, 2 * kGiB},
                     Job{true, 2048, 0},
                     Job{true, 2048, kGiB},
                     Job{true, 4096, 0},
                     Job{true, 4096, 2 * kGiB},
                     Job{false, 1024, 0, Precision::kF32},
                     Job{false, 1024, kGiB, Precision::kF32}};
  for (const Job& job : jobs) {
    try {
      measure(vae, job, rounds, whole);
    } catch (const Error& error) {
      std::printf("%s\n", error.what());
    }
  }
  return 0;
}
