// A CUDA runtime, and kernels, that do nothing but keep books: for the host's code without a GPU.
// Memory is the host's; everything is done at once. What nobody wrote is full of kUnwritten.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace calotype::test {

struct FakeCuda {
  int64_t total = int64_t{1} << 30;  // of device memory
  int64_t used = 0, peak = 0;
  int64_t unwritten = 0;  // copies to the device of pinned memory that nobody had written
  // "up BYTES STREAM", "down BYTES STREAM", "record EVENT STREAM", "hold EVENT STREAM", "NAME
  // STREAM" of kernels.
  std::vector<std::string> log;
  std::string failing;  // the kernel whose launch fails
};

// The one of this process; everything that was logged and measured forgotten.
FakeCuda& new_fake_cuda();

}  // namespace calotype::test
