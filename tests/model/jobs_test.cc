// Batches, threads, progress, cancellation and memory bounds of encoding and decoding.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "support/errors.h"
#include "support/random.h"
#include "support/random_vae.h"

namespace calotype::test {
namespace {

using testing::HasSubstr;

RunOptions on(Backend backend, int threads = 0) {
  RunOptions options;
  options.backend = backend;
  options.threads = threads;
  return options;
}

AutoencoderKL small_vae() { return AutoencoderKL(random_model(small_config(), 1, DType::kF32)); }

Tensor picture(const Tensor& batch, int64_t index) {
  Shape shape = batch.shape();
  const auto size = static_cast<size_t>(batch.size() / shape[0]);
  shape[0] = 1;
  return Tensor(shape, batch.values().subspan(static_cast<size_t>(index) * size, size));
}

bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::ranges::equal(a.values(), b.values());
}

class Jobs : public testing::TestWithParam<Backend> {};

TEST_P(Jobs, give_a_picture_the_same_bytes_in_any_batch) {
  const AutoencoderKL vae = small_vae();
  const RunOptions options = on(GetParam());
  Random random(2);
  const Tensor latents = random.normal_tensor({3, 5, 7, 4}),
               images = random.normal_tensor({3, 10, 14, 3});
  const Tensor decoded = vae.decode(latents, options);
  const Posterior encoded = vae.encode(images, options);
  for (int64_t b = 0; b < 3; b++) {
    EXPECT_TRUE(same(vae.decode(picture(latents, b), options), picture(decoded, b))) << b;
    const Posterior one = vae.encode(picture(images, b), options);
    EXPECT_TRUE(same(one.mean, picture(encoded.mean, b))) << b;
    EXPECT_TRUE(same(one.logvar, picture(encoded.logvar, b))) << b;
  }
}

TEST_P(Jobs, give_the_same_bytes_on_any_number_of_threads) {
  const AutoencoderKL vae = small_vae();
  const Tensor latents = Random(2).normal_tensor({1, 19, 13, 4});
  const Tensor one = vae.decode(latents, on(GetParam(), 1));
  for (const int threads : {2, 3, 5}) {
    EXPECT_TRUE(same(vae.decode(latents, on(GetParam(), threads)), one)) << threads;
  }
}

TEST_P(Jobs, give_the_same_bytes_in_the_smallest_memory) {
  const AutoencoderKL vae = small_vae();
  RunOptions options = on(GetParam(), 1);
  const Tensor latents = Random(2).normal_tensor({1, 64, 48, 4});
  const Tensor free = vae.decode(latents, options);
  options.memory = vae.plan_decode(1, 128, 96, options).minimum_bytes;
  EXPECT_TRUE(same(vae.decode(latents, options), free));
  options.memory -= 1;
  EXPECT_THAT(sentence_of([&] { vae.decode(latents, options); }, ErrorCode::kOutOfMemory),
              HasSubstr("smallest"));
}

TEST_P(Jobs, report_progress_that_never_falls_and_ends_at_one) {
  const AutoencoderKL vae = small_vae();
  RunOptions options = on(GetParam());
  std::vector<double> fractions;
  std::set<std::string> layers;
  const std::thread::id caller = std::this_thread::get_id();
  options.progress = [&](const Progress& progress) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    fractions.push_back(progress.fraction);
    layers.emplace(progress.layer);
    return true;
  };
  vae.decode(Random(2).normal_tensor({1, 8, 8, 4}), options);
  ASSERT_FALSE(fractions.empty());
  EXPECT_TRUE(std::is_sorted(fractions.begin(), fractions.end()));
  EXPECT_GE(fractions.front(), 0);
  EXPECT_EQ(fractions.back(), 1);
  EXPECT_TRUE(layers.contains("decoder.up_blocks.1.resnets.0.conv1"));
}

TEST_P(Jobs, report_every_layer_with_its_arithmetic) {
  const AutoencoderKL vae = small_vae();
  RunOptions options = on(GetParam());
  std::vector<LayerReport> layers;
  options.layers = &layers;
  vae.decode(Random(2).normal_tensor({2, 8, 8, 4}), options);
  double flop = 0;
  std::set<std::string> names;
  for (const LayerReport& layer : layers) {
    flop += layer.flop;
    names.insert(layer.name);
    EXPECT_GE(layer.seconds, 0) << layer.name;
    EXPECT_GT(layer.bytes, 0) << layer.name;
    EXPECT_FALSE(layer.algorithm.empty()) << layer.name;
  }
  EXPECT_NEAR(flop, vae.plan_decode(2, 16, 16, options).flop, 1e-6 * flop);
  EXPECT_EQ(names.size(), layers.size());
  EXPECT_TRUE(names.contains("decoder.mid_block.attentions.0"));
}

INSTANTIATE_TEST_SUITE_P(Backend, Jobs, testing::Values(Backend::kCpu, Backend::kReference),
                         [](const auto& backend) {
                           return backend.param == Backend::kCpu ? "cpu" : "reference";
                         });

class Cancellation : public testing::TestWithParam<Backend> {};

TEST_P(Cancellation, ends_a_job_wherever_it_is) {
  const AutoencoderKL vae = small_vae();
  const Tensor latents = Random(2).normal_tensor({1, 8, 8, 4});
  int calls = 0;
  RunOptions options = on(GetParam(), 1);
  options.progress = [&](const Progress&) { return ++calls > 0; };
  const Tensor whole = vae.decode(latents, options);
  const int all = calls;
  for (const int last : {1, 2, all / 2, all - 1, all}) {
    calls = 0;
    options.progress = [&](const Progress&) { return ++calls < last; };
    sentence_of([&] { vae.decode(latents, options); }, ErrorCode::kCancelled);
    EXPECT_EQ(calls, last);
  }
  options.progress = nullptr;  // and leaves nothing broken behind
  EXPECT_TRUE(same(vae.decode(latents, options), whole));
}

TEST_P(Cancellation, ends_an_encoding) {
  const AutoencoderKL vae = small_vae();
  RunOptions options = on(GetParam());
  options.progress = [](const Progress& progress) { return progress.fraction < 0.5; };
  sentence_of(
      [&] {
        vae.encode(Random(2).normal_tensor({1, 16, 16, 3}), options);
      },
      ErrorCode::kCancelled);
}

TEST_P(Cancellation, lets_exceptions_of_the_callback_through) {
  const AutoencoderKL vae = small_vae();
  RunOptions options = on(GetParam());
  options.progress = [](const Progress& progress) -> bool {
    if (progress.fraction > 0.3) throw std::runtime_error("from the callback");
    return true;
  };
  EXPECT_THROW(vae.decode(Random(2).normal_tensor({1, 8, 8, 4}), options), std::runtime_error);
}

INSTANTIATE_TEST_SUITE_P(Backend, Cancellation, testing::Values(Backend::kCpu, Backend::kReference),
                         [](const auto& backend) {
                           return backend.param == Backend::kCpu ? "cpu" : "reference";
                         });

TEST(Concurrency, one_model_serves_several_threads) {
  const AutoencoderKL vae = small_vae();
  constexpr int kThreads = 4;
  std::vector<Tensor> latents, images, decoded(kThreads), encoded(kThreads);
  Random random(2);
  for (int t = 0; t < kThreads; t++) {
    latents.push_back(random.normal_tensor({1, 6 + t, 9, 4}));
    images.push_back(random.normal_tensor({1, 8, 8 + 2 * t, 3}));
  }
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 3; round++) {
        decoded[t] = vae.decode(latents[t], on(Backend::kCpu, 1 + static_cast<int>(t) % 2));
        encoded[t] = vae.encode(images[t], on(Backend::kCpu)).mean;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t t = 0; t < kThreads; t++) {
    EXPECT_TRUE(same(decoded[t], vae.decode(latents[t], on(Backend::kCpu)))) << t;
    EXPECT_TRUE(same(encoded[t], vae.encode(images[t], on(Backend::kCpu)).mean)) << t;
  }
}

TEST(Concurrency, cancelling_one_job_leaves_the_others_alone) {
  const AutoencoderKL vae = small_vae();
  const Tensor latents = Random(2).normal_tensor({1, 16, 16, 4});
  const Tensor truth = vae.decode(latents, on(Backend::kCpu));
  std::thread other([&] {
    RunOptions options = on(Backend::kCpu);
    options.progress = [](const Progress& progress) { return progress.fraction < 0.2; };
    for (int round = 0; round < 5; round++) {
      sentence_of([&] { vae.decode(latents, options); }, ErrorCode::kCancelled);
    }
  });
  for (int round = 0; round < 5; round++) {
    EXPECT_TRUE(same(vae.decode(latents, on(Backend::kCpu)), truth));
  }
  other.join();
}

}  // namespace
}  // namespace calotype::test
