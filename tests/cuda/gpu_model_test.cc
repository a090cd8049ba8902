// Whole autoencoders on a GPU. Needs a GPU: `make test-cuda`.
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "calotype/autoencoder_kl.h"
#include "calotype/image.h"
#include "cuda/graphs.h"
#include "support/compare.h"
#include "support/random.h"

namespace calotype::test {
namespace {

RunOptions on(Backend backend, Precision precision = Precision::kAuto) {
  RunOptions options;
  options.backend = backend;
  options.precision = precision;
  return options;
}

// A small network with all that a large one has.
AutoencoderKLConfig small() {
  AutoencoderKLConfig config = family_config("sd1");
  config.block_out_channels = {32, 64, 128, 128};
  config.force_upcast = false;
  return config;
}

class GpuModel : public testing::Test {
 protected:
  void SetUp() override { unsetenv("CALOTYPE_CUDA_KERNELS"); }
  Tensor latents(const AutoencoderKL& vae, int64_t n, int64_t h, int64_t w) {
    return random_.normal_tensor({n, h, w, vae.config().channels()});
  }
  Random random_{test_seed(1)};
  Part part_;
};

double error(const Tensor& a, const Tensor& b) {
  return difference(a.values(), b.values()).relative_rms;
}

TEST_F(GpuModel, codes_every_family_like_the_reference) {
  for (const std::string& family : family_names()) {
    AutoencoderKLConfig config = family_config(family);
    const int64_t divisor = part_.is_split() ? 8 : 2;  // the reference is slow, and so are tools
    for (int64_t& width : config.block_out_channels) width /= divisor;
    for (int64_t& width : config.decoder_block_out_channels) width /= divisor;
    if (part_.is_split()) config.norm_num_groups = 4;
    const AutoencoderKL vae(random_model(config, 1));
    const Tensor z = latents(vae, 2, 3, 2);
    const Tensor image = vae.decode(z, on(Backend::kReference));
    const int64_t side = config.spatial_factor();
    const Tensor picture = random_.normal_tensor({2, 2 * side, 3 * side, 3}, 0.5);
    const Posterior moments = vae.encode(picture, on(Backend::kReference));
    for (const auto& [precision, tolerance] :
         {std::pair(Precision::kAuto, 3e-2), {Precision::kF32, 2e-5}}) {
      if (!part_.has_next()) continue;
      SCOPED_TRACE(testing::Message() << family << " within " << tolerance);
      EXPECT_LT(error(vae.decode(z, on(Backend::kCuda, precision)), image), tolerance);
      const Posterior ours = vae.encode(picture, on(Backend::kCuda, precision));
      EXPECT_LT(error(ours.mean, moments.mean), tolerance);
      EXPECT_LT(error(ours.logvar, moments.logvar), tolerance);
    }
  }
}

TEST_F(GpuModel, bytes_are_those_of_the_picture) {
  const AutoencoderKL vae(random_model(small(), 1));
  const Tensor z = latents(vae, 3, 5, 7);
  const Tensor image = vae.decode(z, on(Backend::kCuda));
  std::vector<uint8_t> expected(static_cast<size_t>(image.size()));
  to_uint8(image.values(), expected);
  EXPECT_EQ(vae.decode_bytes(z, on(Backend::kCuda)), expected);
}

TEST_F(GpuModel, a_bound_on_memory_splits_the_batch_and_changes_nothing_else) {
  const AutoencoderKL vae(random_model(small(), 1));
  const Tensor z = latents(vae, 5, 9, 11);
  RunOptions options = on(Backend::kCuda);
  const Tensor whole = vae.decode(z, options);
  options.memory = vae.plan_decode(2, 72, 88, on(Backend::kCuda)).planned_peak_bytes;
  EXPECT_LT(error(vae.decode(z, options), whole), 1e-2);
  EXPECT_LE(vae.plan_decode(5, 72, 88, options).planned_peak_bytes, options.memory);
  options.memory = 1000;
  try {
    vae.decode(z, options);
    ADD_FAILURE() << "nothing fits 1000 bytes";
  } catch (const Error& refused) {
    EXPECT_EQ(refused.code(), ErrorCode::kOutOfMemory);
    EXPECT_THAT(refused.what(), testing::HasSubstr("1000 bytes"));
  }
}

// Device memory for a test.
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes) { EXPECT_EQ(cudaMalloc(&data_, bytes), cudaSuccess); }
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

// What is in device memory before: no kernel may read what none has written.
TEST_F(GpuModel, the_past_of_the_memory_changes_nothing) {
  for (const Precision precision : {Precision::kBF16, Precision::kFP8, Precision::kF32}) {
    if (!part_.has_next()) continue;
    std::vector<Tensor> images;
    for (const int byte : {0, 0xff}) {  // zeros, NaN
      {
        const DeviceMemory past(size_t{4} << 30);
        ASSERT_EQ(cudaMemset(past.data(), byte, size_t{4} << 30), cudaSuccess);
        ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      }
      random_ = Random(test_seed(1));
      const AutoencoderKL vae(random_model(small(), 1));
      const Tensor z = part_.is_split() ? latents(vae, 2, 5, 3) : latents(vae, 3, 11, 9);
      images.push_back(vae.decode(z, on(Backend::kCuda, precision)));
      images.push_back(vae.encode(images.back(), on(Backend::kCuda, precision)).mean);
    }
    for (size_t i = 0; i < 2; i++) {
      const std::span<const float> zeros = images[i].values(), nans = images[i + 2].values();
      EXPECT_TRUE(std::equal(zeros.begin(), zeros.end(), nans.begin()));
    }
  }
}

TEST_F(GpuModel, threads_may_share_a_model) {
  const AutoencoderKL vae(random_model(small(), 1));
  std::vector<Tensor> inputs, expected;
  for (int i = 0; i < 8; i++) {
    inputs.push_back(latents(vae, 1 + i % 2, 4 + i, 6));
    expected.push_back(vae.decode(inputs.back(), on(Backend::kCuda)));
  }
  std::vector<std::thread> threads;
  std::vector<int> wrong(8, 0);
  for (size_t i = 0; i < 8; i++) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < (part_.is_split() ? 1 : 5); round++) {
        const Tensor image = vae.decode(inputs[i], on(Backend::kCuda));
        wrong[i] += !std::equal(image.values().begin(), image.values().end(), expected[i].data());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(8, 0));
}

TEST_F(GpuModel, reports_progress_and_layers_and_stops_when_told) {
  const AutoencoderKL vae(random_model(small(), 1));
  const Tensor z = latents(vae, 2, 6, 6);
  RunOptions options = on(Backend::kCuda);
  std::vector<LayerReport> layers;
  std::vector<double> fractions;
  options.layers = &layers;
  options.progress = [&](const Progress& progress) {
    fractions.push_back(progress.fraction);
    return true;
  };
  const Tensor image = vae.decode(z, options);
  EXPECT_GT(layers.size(), 20);
  for (const LayerReport& layer : layers) EXPECT_GT(layer.seconds, 0) << layer.name;
  EXPECT_TRUE(std::is_sorted(fractions.begin(), fractions.end()));
  EXPECT_NEAR(fractions.back(), 1, 1e-9);
  options.progress = [](const Progress&) { return false; };
  try {
    vae.decode(z, options);
    ADD_FAILURE() << "was not cancelled";
  } catch (const Error& cancelled) {
    EXPECT_EQ(cancelled.code(), ErrorCode::kCancelled);
  }
  const Tensor again = vae.decode(z, on(Backend::kCuda));
  EXPECT_TRUE(std::equal(image.values().begin(), image.values().end(), again.data()));
}

TEST_F(GpuModel, works_on_device_memory_of_any_strides_on_the_callers_stream) {
  const AutoencoderKL vae(random_model(small(), 1));
  const Tensor z = latents(vae, 2, 5, 4);
  const Tensor image = vae.decode(z, on(Backend::kCuda));
  const Tensor z_nchw = nhwc_to_nchw(z);
  const DeviceMemory in(static_cast<size_t>(z.size()) * 4);
  const DeviceMemory out(static_cast<size_t>(image.size()) * 4);
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(in.data(), z_nchw.data(), static_cast<size_t>(z.size()) * 4,
                            cudaMemcpyHostToDevice, stream),
            cudaSuccess);
  const auto nchw = [](const Shape& s) {  // strides of the order n, h, w, c
    return std::array<int64_t, 4>{s[3] * s[1] * s[2], s[2], 1, s[1] * s[2]};
  };
  const DeviceView from = {in.data(), DType::kF32, z.shape(), nchw(z.shape())};
  const DeviceView to = {out.data(), DType::kF32, image.shape(), nchw(image.shape())};
  vae.decode_on_device(from, false, to, stream);
  Tensor result({2, 3, 40, 32});
  ASSERT_EQ(cudaMemcpyAsync(result.data(), out.data(), static_cast<size_t>(image.size()) * 4,
                            cudaMemcpyDeviceToHost, stream),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  // The latents are unscaled in float32 there, in float64 here.
  EXPECT_LT(error(nchw_to_nhwc(result), image), 1e-2);

  // And from pictures to moments.
  const Posterior posterior = vae.encode(image, on(Backend::kCuda));
  const DeviceMemory moments(static_cast<size_t>(2 * posterior.mean.size()) * 4);
  Shape shape = posterior.mean.shape();
  shape[3] *= 2;
  vae.encode_on_device(to, {moments.data(), DType::kF32, shape, nchw(shape)}, stream);
  Tensor both({shape[0], shape[3], shape[1], shape[2]});
  ASSERT_EQ(cudaMemcpyAsync(both.data(), moments.data(), static_cast<size_t>(both.size()) * 4,
                            cudaMemcpyDeviceToHost, stream),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  const Tensor nhwc = nchw_to_nhwc(both);
  for (int64_t p = 0; p < posterior.mean.size() / shape[3] * 2; p++) {
    for (int64_t c = 0; c < shape[3] / 2; c++) {
      ASSERT_NEAR(nhwc.data()[p * shape[3] + c], posterior.mean.data()[p * shape[3] / 2 + c], 0.05);
    }
  }
  cudaStreamDestroy(stream);
}

TEST_F(GpuModel, says_what_it_runs_on) {
  const AutoencoderKL vae(random_model(small(), 1));
  EXPECT_THAT(vae.backend_name(), testing::HasSubstr("bf16"));
  EXPECT_THAT(vae.backend_name(on(Backend::kAuto, Precision::kF32)), testing::HasSubstr("f32"));
  EXPECT_EQ(vae.backend_name(on(Backend::kCpu)), "CPU");
  RunOptions options = on(Backend::kCuda);
  options.device = 99;
  EXPECT_THROW(vae.backend_name(options), Error);
}

}  // namespace
}  // namespace calotype::test
