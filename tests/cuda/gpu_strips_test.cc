// What goes through host memory by strips, against the same with all of it on the GPU. Needs a GPU.
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "calotype/autoencoder_kl.h"
#include "cuda/graphs.h"
#include "model/decoder.h"
#include "model/encoder.h"
#include "model/tensor_source.h"
#include "support/compare.h"

namespace calotype::test {
namespace {

struct Kernels {
  std::string name;
  Precision precision;
  bool portable;
  double tolerance;  // relative RMS: statistics are added up in another order
};

std::ostream& operator<<(std::ostream& to, const Kernels& kernels) { return to << kernels.name; }

// A small network with all that a large one has; 96 channels take a pass of their own for their
// statistics.
AutoencoderKLConfig small() {
  AutoencoderKLConfig config = family_config("sd1");
  config.block_out_channels = {32, 96, 128, 128};
  return config;
}

class GpuStrips : public testing::TestWithParam<Kernels> {
 protected:
  void SetUp() override {
    setenv("CALOTYPE_CUDA_KERNELS", GetParam().portable ? "portable" : "auto", 1);
    session_ = cuda_backend().open({0, GetParam().precision});
  }
  void TearDown() override { unsetenv("CALOTYPE_CUDA_KERNELS"); }

  Graph decoder(int64_t h, int64_t w) const { return Decoder(tensors_, small()).graph(h, w); }
  Graph encoder(int64_t h, int64_t w) const { return Encoder(tensors_, small()).graph(h, w); }
  Tensor input(const Graph& graph, int64_t batch) {
    const Extent e = graph.extent(graph.input());
    return random_.normal_tensor({batch, e.h, e.w, e.c});
  }
  // Bounds on memory from the least that works to nearly what the whole takes.
  std::vector<int64_t> bounds(const Graph& graph) {
    const DevicePlan plan = session_->plan(graph, 1, 0);
    EXPECT_EQ(plan.host_bytes, 0);
    EXPECT_LT(plan.minimum_bytes, plan.peak_bytes);
    const int64_t range = plan.peak_bytes - plan.minimum_bytes;
    return {plan.minimum_bytes, plan.minimum_bytes + range / 4, plan.minimum_bytes + range / 2,
            plan.peak_bytes - 1};
  }

  const Model model_ = random_model(small(), 1);
  mutable ModelTensors tensors_{model_};
  std::shared_ptr<DeviceSession> session_;
  Random random_{test_seed(1)};
  Part part_;
};

INSTANTIATE_TEST_SUITE_P(Kernels, GpuStrips,
                         testing::Values(Kernels{"f32", Precision::kF32, false, 1e-5},
                                         Kernels{"bf16", Precision::kBF16, false, 1.5e-2},
                                         Kernels{"bf16_portable", Precision::kBF16, true, 1.5e-2},
                                         Kernels{"f16", Precision::kF16, false, 2e-3},
                                         Kernels{"f16_portable", Precision::kF16, true, 2e-3}),
                         [](const auto& test) { return test.param.name; });

TEST_P(GpuStrips, give_what_the_whole_gives) {
  std::vector<Graph> graphs = {decoder(9, 7), encoder(104, 72)};
  if (!part_.is_split()) {
    for (const auto& [h, w] : {std::pair(200, 136), {56, 264}}) graphs.push_back(encoder(h, w));
    graphs.push_back(decoder(21, 34));
  }
  for (const Graph& graph : graphs) {
    // Strips take one picture after another: split, one is enough, and nothing to compare it with.
    const int64_t batch = part_.is_split() ? 1 : 2;
    const Tensor in = input(graph, batch);
    const Tensor whole = part_.is_split() ? Tensor() : run_device(*session_, graph, batch, in);
    for (const int64_t bound : bounds(graph)) {
      if (!part_.has_next()) continue;
      const Extent e = graph.extent(graph.output());
      SCOPED_TRACE(testing::Message() << e.h << "x" << e.w << "x" << e.c << " in " << bound);
      const DevicePlan plan = session_->plan(graph, 1, bound);
      EXPECT_LE(plan.peak_bytes, bound);
      const Tensor result = run_device(*session_, graph, batch, in, bound);
      if (part_.is_split()) continue;
      EXPECT_LT(difference(result.values(), whole.values()).relative_rms, GetParam().tolerance);
      const Tensor again = run_device(*session_, graph, batch, in, bound);
      EXPECT_TRUE(std::equal(result.values().begin(), result.values().end(), again.data()))
          << "not the same from run to run";
    }
  }
}

TEST_P(GpuStrips, hold_no_more_of_the_gpu_than_they_may) {
  const Graph graph = part_.is_split() ? decoder(9, 7) : decoder(90, 120);
  const Tensor in = input(graph, 1);
  run_device(*session_, decoder(2, 2), 1, input(decoder(2, 2), 1));  // kernels are loaded
  session_ = cuda_backend().open({0, GetParam().precision});
  size_t before = 0, after = 0, total = 0;
  const DevicePlan plan = session_->plan(graph, 1, 0);
  const int64_t bound = std::min(plan.minimum_bytes + (16 << 20), plan.peak_bytes - 1);
  ASSERT_EQ(cudaMemGetInfo(&before, &total), cudaSuccess);
  run_device(*session_, graph, 1, in, bound);
  ASSERT_EQ(cudaMemGetInfo(&after, &total), cudaSuccess);
  // Some ten allocations, in pages of 2 MiB.
  EXPECT_LE(static_cast<int64_t>(before - after), bound + (24 << 20));
}

class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t values) {
    EXPECT_EQ(cudaMalloc(&data_, static_cast<size_t>(values) * 4), cudaSuccess);
  }
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  float* data() const { return static_cast<float*>(data_); }

 private:
  void* data_ = nullptr;
};

TEST_P(GpuStrips, take_and_leave_device_memory_in_the_order_of_the_callers_stream) {
  const bool is_split = part_.is_split();
  for (const Graph& graph : {is_split ? decoder(9, 7) : decoder(21, 34),
                             is_split ? encoder(104, 72) : encoder(200, 136)}) {
    if (!part_.has_next()) continue;
    const Tensor in = input(graph, 1);
    const Tensor whole = run_device(*session_, graph, 1, in);
    const Extent from = graph.extent(graph.input()), to = graph.extent(graph.output());
    const DeviceMemory source(in.size()), result(whole.size());
    cudaStream_t stream = nullptr;
    ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
    DeviceCall call;
    call.graph = &graph;
    call.input = {source.data(), DType::kF32, nhwc_strides(from.h, from.w, from.c), true};
    call.output = {result.data(), DType::kF32, nhwc_strides(to.h, to.w, to.c), true};
    call.stream = stream;
    call.memory = session_->plan(graph, 1, 0).minimum_bytes;
    Tensor back(whole.shape());
    ASSERT_EQ(cudaMemcpyAsync(source.data(), in.data(), static_cast<size_t>(in.size()) * 4,
                              cudaMemcpyHostToDevice, stream),
              cudaSuccess);
    session_->run(call);
    ASSERT_EQ(cudaMemcpyAsync(back.data(), result.data(), static_cast<size_t>(back.size()) * 4,
                              cudaMemcpyDeviceToHost, stream),
              cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_LT(difference(back.values(), whole.values()).relative_rms, GetParam().tolerance);
    // Inside of a capture they cannot work, and say so.
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), cudaSuccess);
    try {
      session_->run(call);
      ADD_FAILURE() << "was captured";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("cannot be captured"));
    }
    cudaGraph_t captured = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream, &captured), cudaSuccess);
    if (captured != nullptr) cudaGraphDestroy(captured);
    cudaStreamDestroy(stream);
  }
}

}  // namespace
}  // namespace calotype::test
