// One job in a process of its own, for peak_test: prints what was planned and what the kernel says
// the process held at most.
//
// peak_job MODEL decode|encode WIDTH HEIGHT THREADS SHARE
//
// MODEL: a path, "embedded", or "random:FAMILY" (weights in the heap). SHARE: of the way from the
// smallest budget that works (0) to what the fastest plan takes (1).
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "calotype/autoencoder_kl.h"

namespace {

using namespace calotype;

int64_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::atoll(line.c_str() + 6) * 1024;
  }
  return 0;
}

AutoencoderKL load(const std::string& name) {
  if (name.starts_with("random:")) {
    return AutoencoderKL(random_model(family_config(name.substr(7)), 1, DType::kBF16));
  }
  return AutoencoderKL::load(name == "embedded" ? "" : name);
}

Tensor grey(const Shape& shape) {
  Tensor tensor(shape);
  for (int64_t i = 0; i < tensor.size(); i++) {
    tensor.data()[i] = static_cast<float>(i % 7) * 0.2f - 0.6f;
  }
  return tensor;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const bool decodes = std::string(argv[2]) == "decode";
  const int64_t width = std::atoll(argv[3]), height = std::atoll(argv[4]);
  RunOptions options;
  options.backend = Backend::kCpu;
  options.threads = std::atoi(argv[5]);
  options.memory = int64_t{64} << 30;  // more than anything here takes
  const AutoencoderKL vae = load(argv[1]);
  const auto plan = [&] {
    return decodes ? vae.plan_decode(1, height, width, options)
                   : vae.plan_encode(1, height, width, options);
  };
  const Plan fastest = plan();
  options.memory =
      fastest.minimum_bytes +
      static_cast<int64_t>(std::atof(argv[6]) *
                           static_cast<double>(fastest.planned_peak_bytes - fastest.minimum_bytes));
  const Plan chosen = plan();
  const Tensor input = grey(decodes ? chosen.latents : chosen.image);
  if (decodes) {
    vae.decode(input, options);
  } else {
    vae.encode(input, options);
  }
  std::printf("%lld %lld %lld\n", static_cast<long long>(chosen.planned_peak_bytes),
              static_cast<long long>(options.memory),
              static_cast<long long>(peak_resident_bytes()));
  return 0;
}
