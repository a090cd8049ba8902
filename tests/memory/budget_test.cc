// The same bytes in any budget, and the budget is kept to.
#include <gtest/gtest.h>

#include <cstring>

#include "calotype/autoencoder_kl.h"
#include "support/random.h"

namespace calotype {
namespace {

using test::Random;

AutoencoderKLConfig random_config(Random& random) {
  AutoencoderKLConfig config;
  const int64_t levels = random.integer(1, 4);
  const int64_t groups = random.pick(std::vector<int64_t>{1, 2, 4});
  config.block_out_channels.clear();
  for (int64_t i = 0; i < levels; i++) {
    config.block_out_channels.push_back(groups * random.pick(std::vector<int64_t>{1, 2, 4, 8}));
  }
  config.down_block_types.assign(static_cast<size_t>(levels), "DownEncoderBlock2D");
  config.up_block_types.assign(static_cast<size_t>(levels), "UpDecoderBlock2D");
  config.layers_per_block = random.integer(1, 2);
  config.latent_channels = random.integer(1, 6);
  config.norm_num_groups = groups;
  config.mid_block_add_attention = random.integer(0, 1) == 1;
  config.use_quant_conv = config.use_post_quant_conv = random.integer(0, 1) == 1;
  return config;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() &&
         std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size()) * sizeof(float)) == 0;
}

// Latents or pictures of a size that makes several strips.
struct Draw {
  explicit Draw(uint64_t seed)
      : random(seed), vae(random_model(random_config(random), seed, DType::kF32)) {
    const int64_t factor = vae.config().spatial_factor();
    batch = random.integer(1, 3);
    height = factor * random.integer(1, 320 / factor);
    width = factor * random.integer(1, 96 / factor);
    latents =
        random.normal_tensor({batch, height / factor, width / factor, vae.config().channels()});
    image = random.normal_tensor({batch, height, width, 3}, 0.5);
  }
  Random random;
  AutoencoderKL vae;
  int64_t batch, height, width;
  Tensor latents, image;
};

class AnyBudget : public testing::TestWithParam<int> {};

TEST_P(AnyBudget, decodes_and_encodes_the_same_bytes) {
  const uint64_t seed = test::test_seed(7000) + static_cast<uint64_t>(GetParam());
  const Backend backend = GetParam() % 4 == 3 ? Backend::kReference : Backend::kCpu;
  SCOPED_TRACE(testing::Message() << "CALOTYPE_TEST_SEED "
                                  << seed - static_cast<uint64_t>(GetParam()));
  Draw draw(seed);
  RunOptions unbounded;
  unbounded.backend = backend;
  unbounded.memory = int64_t{8} << 30;
  const Tensor picture = draw.vae.decode(draw.latents, unbounded);
  const Tensor moments = draw.vae.encode(draw.image, unbounded).mean.clone();
  for (int i = 0; i < 3; i++) {
    RunOptions options = unbounded;
    options.threads = static_cast<int>(draw.random.integer(1, 4));
    const Plan decode = draw.vae.plan_decode(draw.batch, draw.height, draw.width, options);
    const Plan encode = draw.vae.plan_encode(draw.batch, draw.height, draw.width, options);
    const double share = i == 0 ? 0.0 : draw.random.uniform();
    const auto between = [&](const Plan& plan) {
      return plan.minimum_bytes +
             static_cast<int64_t>(
                 share * static_cast<double>(plan.planned_peak_bytes - plan.minimum_bytes));
    };
    options.memory = between(decode);
    EXPECT_LE(draw.vae.plan_decode(draw.batch, draw.height, draw.width, options).planned_peak_bytes,
              options.memory);
    EXPECT_TRUE(same_bytes(draw.vae.decode(draw.latents, options), picture)) << options.memory;
    options.memory = between(encode);
    EXPECT_TRUE(same_bytes(draw.vae.encode(draw.image, options).mean, moments)) << options.memory;
  }
}

// The budget that a refusal names.
template <class Job>
void expect_refusal(const Plan& plan, RunOptions options, const Job& job) {
  for (const int64_t less : {int64_t{1}, int64_t{4096}}) {
    options.memory = plan.minimum_bytes - less;
    try {
      job(options);
      FAIL() << "a budget below the minimum was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
      EXPECT_NE(std::string(error.what()).find(std::to_string(plan.minimum_bytes)),
                std::string::npos)
          << error.what();
    }
  }
  options.memory = plan.minimum_bytes;
  job(options);
}

TEST_P(AnyBudget, takes_the_minimum_and_refuses_a_byte_less_and_names_it) {
  Draw draw(test::test_seed(7000) + static_cast<uint64_t>(GetParam()));
  RunOptions options;
  options.backend = Backend::kCpu;
  options.threads = static_cast<int>(draw.random.integer(1, 4));
  expect_refusal(draw.vae.plan_decode(draw.batch, draw.height, draw.width, options), options,
                 [&](const RunOptions& o) { draw.vae.decode(draw.latents, o); });
  expect_refusal(draw.vae.plan_encode(draw.batch, draw.height, draw.width, options), options,
                 [&](const RunOptions& o) { draw.vae.encode(draw.image, o); });
}

TEST_P(AnyBudget, a_picture_is_the_same_alone_and_anywhere_in_a_batch) {
  Draw draw(test::test_seed(9000) + static_cast<uint64_t>(GetParam()));
  const Tensor together = draw.vae.decode(draw.latents);
  const int64_t size = draw.latents.size() / draw.batch, out = together.size() / draw.batch;
  for (int64_t b = 0; b < draw.batch; b++) {
    Shape shape = draw.latents.shape();
    shape[0] = 1;
    const Tensor alone =
        draw.vae.decode(Tensor(shape, draw.latents.values().subspan(static_cast<size_t>(b * size),
                                                                    static_cast<size_t>(size))));
    EXPECT_EQ(std::memcmp(alone.data(), together.data() + b * out,
                          static_cast<size_t>(out) * sizeof(float)),
              0);
  }
}

Tensor picture_of(const Tensor& batch, int64_t b) {
  Shape shape = batch.shape();
  const int64_t size = batch.size() / shape[0];
  shape[0] = 1;
  return Tensor(shape,
                batch.values().subspan(static_cast<size_t>(b * size), static_cast<size_t>(size)));
}

// The batch of those pictures, in that order, some of them more than once.
Tensor batch_of(const Tensor& all, const std::vector<int64_t>& which) {
  Shape shape = all.shape();
  const int64_t size = all.size() / shape[0];
  shape[0] = static_cast<int64_t>(which.size());
  Tensor batch(shape);
  for (size_t i = 0; i < which.size(); i++) {
    std::memcpy(batch.data() + static_cast<int64_t>(i) * size, all.data() + which[i] * size,
                static_cast<size_t>(size) * sizeof(float));
  }
  return batch;
}

TEST_P(AnyBudget, threads_batch_and_place_in_it_change_no_byte) {
  Draw draw(test::test_seed(11000) + static_cast<uint64_t>(GetParam()));
  Random& random = draw.random;
  RunOptions alone;
  alone.backend = Backend::kCpu;
  alone.memory = int64_t{8} << 30;
  std::vector<Tensor> pictures, moments;
  for (int64_t b = 0; b < draw.batch; b++) {
    pictures.push_back(draw.vae.decode(picture_of(draw.latents, b), alone));
    moments.push_back(draw.vae.encode(picture_of(draw.image, b), alone).mean.clone());
  }
  for (int i = 0; i < 3; i++) {
    std::vector<int64_t> which(static_cast<size_t>(random.integer(1, 4)));
    for (int64_t& w : which) w = random.integer(0, draw.batch - 1);
    const auto count = static_cast<int64_t>(which.size());
    RunOptions options = alone;
    options.threads = static_cast<int>(random.integer(1, 5));
    const auto draw_budget = [&](const Plan& plan) {
      return plan.minimum_bytes +
             random.integer(0, std::max<int64_t>(0, plan.planned_peak_bytes - plan.minimum_bytes));
    };
    const auto expect_same = [&](const Tensor& batch, const std::vector<Tensor>& truth) {
      for (int64_t b = 0; b < count; b++) {
        EXPECT_TRUE(same_bytes(picture_of(batch, b),
                               truth[static_cast<size_t>(which[static_cast<size_t>(b)])]))
            << "place " << b << " of " << count << ", " << options.threads << " threads, "
            << options.memory << " bytes";
      }
    };
    options.memory = draw_budget(draw.vae.plan_decode(count, draw.height, draw.width, options));
    expect_same(draw.vae.decode(batch_of(draw.latents, which), options), pictures);
    options.memory = int64_t{8} << 30;
    options.memory = draw_budget(draw.vae.plan_encode(count, draw.height, draw.width, options));
    expect_same(draw.vae.encode(batch_of(draw.image, which), options).mean, moments);
  }
}

INSTANTIATE_TEST_SUITE_P(seeds, AnyBudget, testing::Range(0, 12));

TEST(Budget, absurd_sizes_are_planned_or_refused) {
  const AutoencoderKL vae(random_model(family_config("flux"), 1, DType::kBF16));
  for (const int64_t side :
       {int64_t{65536} * 8, int64_t{1} << 31, int64_t{1} << 40, int64_t{1} << 60}) {
    RunOptions options;
    options.memory = int64_t{4} << 30;
    try {
      const Plan plan = vae.plan_decode(1, side, side, options);
      EXPECT_LE(plan.planned_peak_bytes, options.memory);
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::kOutOfMemory ||
                  error.code() == ErrorCode::kInvalidArgument)
          << error.what();
    }
  }
}

TEST(Budget, a_flux_decode_fits_where_it_is_told_to) {
  const AutoencoderKL vae(random_model(family_config("flux"), 1, DType::kBF16));
  RunOptions options;
  for (const int64_t megabytes : {0, 1331, 1024, 800, 700}) {
    options.memory = megabytes << 20;
    const Plan plan = vae.plan_decode(1, 1024, 1024, options);
    EXPECT_LE(plan.planned_peak_bytes, plan.memory_bytes);
    RecordProperty("peak_" + std::to_string(megabytes), std::to_string(plan.planned_peak_bytes));
    std::printf("%5ld MiB: peak %ld MiB, minimum %ld MiB, spilled %ld MiB, again %.1f %%, %.1f s\n",
                megabytes, plan.planned_peak_bytes >> 20, plan.minimum_bytes >> 20,
                plan.spilled_bytes >> 20, 100 * plan.flop_again / plan.flop_executed, plan.seconds);
  }
}

}  // namespace
}  // namespace calotype
