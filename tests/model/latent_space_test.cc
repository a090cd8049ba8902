// Scaling itself is judged by diffusers' pipelines in tests/reference/golden_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "support/compare.h"
#include "support/errors.h"
#include "support/random.h"
#include "support/random_vae.h"

namespace calotype::test {
namespace {

using testing::HasSubstr;

std::string hash_of(const AutoencoderKLConfig& config, uint64_t seed = 1) {
  return AutoencoderKL(random_model(config, seed, DType::kF32)).latent_space_hash();
}

TEST(LatentSpace, has_one_hash_whatever_the_weights) {
  EXPECT_EQ(hash_of(small_config(), 1), hash_of(small_config(), 2));
  AutoencoderKLConfig wider = small_config();
  wider.block_out_channels = {4, 4};
  wider.layers_per_block = 1;
  wider.sample_size = 7;
  EXPECT_EQ(hash_of(small_config()), hash_of(wider));
}

TEST(LatentSpace, has_another_hash_for_whatever_defines_it) {
  const std::vector<std::function<void(AutoencoderKLConfig&)>> changes = {
      [](auto&) {},
      [](auto& c) { c.scaling_factor = 0.1822; },
      [](auto& c) { c.shift_factor = 0.1159; },
      [](auto& c) { c.latent_channels = 5; },
      [](auto& c) {
        c.block_out_channels = {8, 8, 12};
        c.down_block_types.emplace_back("DownEncoderBlock2D");
        c.up_block_types.emplace_back("UpDecoderBlock2D");
      },
      [](auto& c) {
        c.latents_mean = {0, 0, 0, 1};
        c.latents_std = {1, 1, 1, 1};
      },
      [](auto& c) {
        c.latents_mean = {0, 0, 0, 1};
        c.latents_std = {1, 1, 1, 2};
      },
      [](auto& c) {
        c.class_name = "AutoencoderKLFlux2";
        c.patch_size = {2, 2};
      },
  };
  std::set<std::string> hashes;
  for (const auto& change : changes) {
    AutoencoderKLConfig config = small_config();
    change(config);
    hashes.insert(hash_of(config));
  }
  EXPECT_EQ(hashes.size(), changes.size());
}

TEST(LatentSpace, of_flux2_is_defined_by_its_batch_norm) {
  EXPECT_NE(hash_of(small_flux2_config(), 1), hash_of(small_flux2_config(), 2));
}

TEST(LatentSpace, takes_no_shift_factor_where_it_has_mean_and_std) {
  AutoencoderKLConfig config = small_config();
  config.latents_mean = {1, 2, 3, 4};
  config.latents_std = {1, 2, 3, 4};
  const std::string hash = hash_of(config);
  config.shift_factor = 5;
  EXPECT_EQ(hash_of(config), hash);
}

// Files that were written before must stay readable: these are in them.
TEST(LatentSpace, has_the_hashes_that_files_hold) {
  const auto hash = [](const std::string& family) {
    return AutoencoderKL(model_of_zeros(family_config(family))).latent_space_hash();
  };
  EXPECT_EQ(hash("flux"), "89b4affa2783adbaa33332a07f30c4f300ad73640c16a3af5056535449dfd863");
  EXPECT_EQ(hash("sd1"), "fb10dce90595f8a093c4012f5dee8d47418ae605cd26697836b1119f1e486fb9");
  EXPECT_EQ(hash("sd2"), hash("sd1"));
  EXPECT_EQ(hash("sdxl"), "5796d5b5e76299e8d79a8a339af123b04dd454f5d626297439712412230776c7");
  EXPECT_EQ(hash("sd3"), "66c71832f638826c9f1fbb4447a2b170a992e0cf8447466d1ba2bcccbc4e13ee");
}

TEST(LatentSpace, comes_back_from_unscale_what_scale_took) {
  for (const AutoencoderKLConfig& config : {small_config(), small_flux2_config()}) {
    const AutoencoderKL vae(random_model(config, 3, DType::kF32));
    const Tensor z = Random(4).normal_tensor({2, 4, 6, 4});
    const Tensor back = vae.unscale(vae.scale(z));
    ASSERT_EQ(back.shape(), z.shape());
    EXPECT_LE(difference(back.values(), z.values()).relative_rms, 1e-6);
  }
}

TEST(LatentSpace, of_flux2_has_patches_in_its_channels) {
  const AutoencoderKL vae(random_model(small_flux2_config(), 3, DType::kF32));
  EXPECT_EQ(vae.scale(Tensor({1, 4, 6, 4})).shape(), (Shape{1, 2, 3, 16}));
  EXPECT_THAT(sentence_of(
                  [&] {
                    vae.scale(Tensor({1, 3, 6, 4}));
                  },
                  ErrorCode::kInvalidArgument),
              HasSubstr("multiples of 2"));
}

TEST(LatentSpace, refuses_other_shapes) {
  const AutoencoderKL vae(random_model(small_config(), 3, DType::kF32));
  for (const Shape& shape : {Shape{1, 2, 2, 3}, Shape{2, 2, 4}, Shape{1, 0, 2, 4}}) {
    EXPECT_THAT(sentence_of([&] { vae.scale(Tensor(shape)); }, ErrorCode::kInvalidArgument),
                HasSubstr(shape_string(shape)));
    EXPECT_THAT(sentence_of([&] { vae.unscale(Tensor(shape)); }, ErrorCode::kInvalidArgument),
                HasSubstr(shape_string(shape)));
  }
}

}  // namespace
}  // namespace calotype::test
