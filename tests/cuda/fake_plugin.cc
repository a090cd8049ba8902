// A plugin with one GPU that is not there. Its "device memory" is the host's, and every value that
// it computes is 0.5. CALOTYPE_FAKE_GPU says what is wrong with it: "full" (it cannot be opened),
// "taken", "small" (no job fits); with nothing, it works.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>

#include "calotype/export.h"
#include "core/cat.h"
#include "cuda/build_id.h"
#include "cuda/plugin.h"

namespace calotype {
namespace {

bool is(const std::string& state) {
  const char* wanted = std::getenv("CALOTYPE_FAKE_GPU");
  return wanted != nullptr && state == wanted;
}

template <class T>
void fill(const DeviceCall& call, T value) {
  const Extent e = call.graph->extent(call.graph->output());
  const std::array<int64_t, 4> s =
      call.output.on_device ? call.output.strides : nhwc_strides(e.h, e.w, e.c);
  for (int64_t b = 0; b < call.batch; b++) {
    for (int64_t y = 0; y < e.h; y++) {
      for (int64_t x = 0; x < e.w; x++) {
        for (int64_t c = 0; c < e.c; c++) {
          static_cast<T*>(call.output.data)[b * s[0] + y * s[1] + x * s[2] + c * s[3]] = value;
        }
      }
    }
  }
}

class FakeSession final : public DeviceSession {
 public:
  Precision precision() const override { return Precision::kBF16; }
  std::string description() const override { return "Fake GPU (no kernels, bf16)"; }
  DevicePlan plan(const Graph&, int64_t batch, int64_t memory) override {
    refuse_where_small();
    DevicePlan plan;
    plan.peak_bytes = batch << 20;
    plan.minimum_bytes = 1 << 20;
    plan.memory_bytes = memory > 0 ? memory : int64_t{3} << 30;
    return plan;
  }
  void run(const DeviceCall& call) override {
    if (call.layers != nullptr) call.layers->emplace_back().name = "half of it";
    refuse_where_small();
    if (call.output.dtype == DType::kU8) return fill<uint8_t>(call, 191);  // of 0.5
    fill<float>(call, 0.5);
  }

 private:
  static void refuse_where_small() {
    if (is("small")) fail(ErrorCode::kOutOfMemory, "the fake GPU is small");
  }
};

class FakeBackend final : public DeviceBackend {
 public:
  int device_count() const override { return 1; }
  std::string device_name(int) const override { return "Fake GPU"; }
  std::shared_ptr<DeviceSession> open(const DeviceOptions&) override {
    if (is("full")) fail(ErrorCode::kOutOfMemory, "the fake GPU is full");
    if (is("taken")) fail(ErrorCode::kInternal, "the fake GPU is another's");
    return std::make_shared<FakeSession>();
  }
};

}  // namespace
}  // namespace calotype

extern "C" {
CALOTYPE_API const char* calotype_cuda_build_id() { return calotype::kCudaBuildId; }
CALOTYPE_API calotype::DeviceBackend* calotype_cuda_open() {
  return std::make_unique<calotype::FakeBackend>().release();
}
}
