// What makes a model, what is refused, and how large the networks are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "support/errors.h"
#include "support/random.h"
#include "support/random_vae.h"

namespace calotype::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

RunOptions reference() {
  RunOptions options;
  options.backend = Backend::kReference;
  return options;
}

Model small_model() { return random_model(small_config(), 1, DType::kF32); }

void erase_prefix(Model& model, const std::string& prefix) {
  std::erase_if(model.tensors, [&](const auto& entry) { return entry.first.starts_with(prefix); });
}

TEST(NetworkSize, is_that_of_the_published_models) {
  const AutoencoderKL vae(model_of_zeros(family_config("flux")));
  EXPECT_EQ(vae.decoder_parameters(), 49'545'475);
  EXPECT_EQ(vae.encoder_parameters(), 34'274'208);
  // Stable Diffusion: 4 channels and the two 1x1 convolutions.
  const AutoencoderKL sd(model_of_zeros(family_config("sd1")));
  EXPECT_EQ(sd.decoder_parameters() + sd.encoder_parameters(), 83'653'863);
}

TEST(NetworkSize, counts_the_arithmetic_of_1024x1024) {
  const AutoencoderKL vae(model_of_zeros(family_config("flux")));
  EXPECT_NEAR(vae.plan_decode(1, 1024, 1024).flop, 10.47e12, 0.01 * 10.47e12);
  EXPECT_NEAR(vae.plan_encode(1, 1024, 1024).flop, 4.88e12, 0.01 * 4.88e12);
}

TEST(NetworkSize, counts_every_picture_of_a_batch) {
  const AutoencoderKL vae(small_model());
  EXPECT_DOUBLE_EQ(vae.plan_decode(3, 32, 48).flop, 3 * vae.plan_decode(1, 32, 48).flop);
}

TEST(NetworkTensors, are_what_a_model_must_have) {
  const auto tensors = network_tensors(small_config());
  const Model model = small_model();
  EXPECT_EQ(tensors.size(), model.tensors.size());
  for (const auto& [name, shape] : tensors) {
    ASSERT_TRUE(model.tensors.contains(name)) << name;
    EXPECT_EQ(model.tensors.at(name).shape, shape) << name;
  }
}

TEST(Autoencoder, refuses_a_model_that_lacks_any_one_of_its_tensors) {
  for (const auto& [name, shape] : network_tensors(small_config())) {
    Model model = small_model();
    model.tensors.erase(name);
    EXPECT_THAT(sentence_of([&] { AutoencoderKL{model}; }, ErrorCode::kInvalidData),
                AllOf(HasSubstr(name), HasSubstr(shape_string(shape)), HasSubstr("missing"),
                      HasSubstr(model.source)));
  }
}

TEST(Autoencoder, refuses_tensors_that_are_not_of_its_network) {
  Model model = small_model();
  model.tensors["decoder.up_blocks.7.resnets.0.conv1.weight"] =
      model.tensors["decoder.conv_in.bias"];
  EXPECT_THAT(sentence_of([&] { AutoencoderKL{model}; }, ErrorCode::kInvalidData),
              AllOf(HasSubstr("decoder.up_blocks.7.resnets.0.conv1.weight"), HasSubstr("[12]")));
}

TEST(Autoencoder, refuses_other_shapes_saying_both) {
  Model model = small_model();
  model.tensors["decoder.conv_in.weight"].shape = {12, 4, 9};
  EXPECT_THAT(sentence_of([&] { AutoencoderKL{model}; }, ErrorCode::kInvalidData),
              AllOf(HasSubstr("decoder.conv_in.weight"), HasSubstr("[12, 4, 9]"),
                    HasSubstr("[12, 4, 3, 3]")));
}

TEST(Autoencoder, refuses_weights_of_whole_numbers) {
  Model model = small_model();
  model.tensors["encoder.conv_in.weight"].dtype = DType::kI32;
  EXPECT_THAT(sentence_of([&] { AutoencoderKL{model}; }, ErrorCode::kInvalidData),
              AllOf(HasSubstr("encoder.conv_in.weight"), HasSubstr("I32")));
}

TEST(Autoencoder, refuses_configs_that_cannot_be) {
  Model model = small_model();
  model.config.norm_num_groups = 5;
  EXPECT_THAT(sentence_of([&] { AutoencoderKL{model}; }, ErrorCode::kInvalidData),
              HasSubstr("norm_num_groups"));
}

TEST(Autoencoder, decodes_with_the_decoder_alone) {
  Model model = small_model();
  erase_prefix(model, "encoder.");
  const AutoencoderKL half(model), whole(small_model());  // quant_conv stays, and is no stranger
  EXPECT_TRUE(half.has_decoder());
  EXPECT_FALSE(half.has_encoder());
  EXPECT_EQ(half.encoder_parameters(), 0);
  EXPECT_EQ(half.decoder_parameters(), whole.decoder_parameters());
  const Tensor latents = Random(2).normal_tensor({1, 3, 2, 4});
  EXPECT_TRUE(std::ranges::equal(half.decode(latents, reference()).values(),
                                 whole.decode(latents, reference()).values()));
  EXPECT_THAT(sentence_of(
                  [&] {
                    half.encode(Tensor({1, 2, 2, 3}));
                  },
                  ErrorCode::kUnsupported),
              AllOf(HasSubstr("encoder"), HasSubstr(model.source)));
  sentence_of([&] { half.plan_encode(1, 8, 8); }, ErrorCode::kUnsupported);
}

TEST(Autoencoder, encodes_with_the_encoder_alone) {
  Model model = small_model();
  erase_prefix(model, "decoder.");
  erase_prefix(model, "post_quant_conv.");
  const AutoencoderKL half(model);
  EXPECT_FALSE(half.has_decoder());
  EXPECT_EQ(half.encode(Random(2).normal_tensor({1, 4, 6, 3}), reference()).mean.shape(),
            (Shape{1, 2, 3, 4}));
  EXPECT_THAT(sentence_of(
                  [&] {
                    half.decode(Tensor({1, 2, 2, 4}));
                  },
                  ErrorCode::kUnsupported),
              HasSubstr("decoder"));
}

TEST(Autoencoder, refuses_a_model_without_either_half) {
  Model model = small_model();
  erase_prefix(model, "decoder.");
  erase_prefix(model, "encoder.");
  EXPECT_THAT(sentence_of([&] { AutoencoderKL{model}; }, ErrorCode::kInvalidData),
              HasSubstr("neither"));
}

TEST(Autoencoder, of_flux2_decodes_raw_z_without_its_batch_norm) {
  Model model = random_model(small_flux2_config(), 1, DType::kF32);
  model.tensors["bn.num_batches_tracked"] = {DType::kI64, {}, model.tensors.begin()->second.data};
  const AutoencoderKL whole(model);
  erase_prefix(model, "bn.");
  const AutoencoderKL bare(model);
  const Tensor z = Random(2).normal_tensor({1, 2, 4, 4});
  EXPECT_TRUE(std::ranges::equal(bare.decode_z(z, reference()).values(),
                                 whole.decode_z(z, reference()).values()));
  EXPECT_THAT(sentence_of(
                  [&] {
                    bare.decode(Tensor({1, 1, 2, 16}));
                  },
                  ErrorCode::kInvalidData),
              HasSubstr("bn.running_mean"));
  sentence_of([&] { bare.latent_space_hash(); }, ErrorCode::kInvalidData);
}

TEST(Autoencoder, of_flux2_needs_both_statistics_or_none) {
  Model model = random_model(small_flux2_config(), 1, DType::kF32);
  model.tensors.erase("bn.running_var");
  EXPECT_THAT(sentence_of([&] { AutoencoderKL{model}; }, ErrorCode::kInvalidData),
              HasSubstr("bn.running_var"));
}

TEST(Autoencoder, refuses_inputs_of_other_shapes) {
  const AutoencoderKL vae(small_model());
  for (const Shape& shape : {Shape{1, 2, 2, 3}, Shape{2, 2, 4}, Shape{0, 2, 2, 4}, Shape{4}}) {
    EXPECT_THAT(sentence_of([&] { vae.decode(Tensor(shape)); }, ErrorCode::kInvalidArgument),
                HasSubstr(shape_string(shape)));
    EXPECT_THAT(sentence_of([&] { vae.decode_z(Tensor(shape)); }, ErrorCode::kInvalidArgument),
                HasSubstr(shape_string(shape)));
  }
  for (const Shape& shape : {Shape{1, 2, 2, 4}, Shape{2, 2, 3}, Shape{1, 0, 2, 3}}) {
    EXPECT_THAT(sentence_of([&] { vae.encode(Tensor(shape)); }, ErrorCode::kInvalidArgument),
                HasSubstr(shape_string(shape)));
  }
  EXPECT_THAT(sentence_of(
                  [&] {
                    vae.encode(Tensor({1, 4, 5, 3}));
                  },
                  ErrorCode::kInvalidArgument),
              AllOf(HasSubstr("5x4"), HasSubstr("multiples of 2"), HasSubstr("pad_to_factor")));
}

TEST(Plan, says_the_shapes_of_a_job) {
  const AutoencoderKL vae(model_of_zeros(family_config("flux2")));
  const Plan plan = vae.plan_decode(2, 500, 640);
  EXPECT_EQ(plan.latents, (Shape{2, 32, 40, 128}));
  EXPECT_EQ(plan.image, (Shape{2, 512, 640, 3}));
  const Plan encode = vae.plan_encode(1, 1, 1);
  EXPECT_EQ(encode.latents, (Shape{1, 1, 1, 128}));
  EXPECT_EQ(encode.image, (Shape{1, 16, 16, 3}));
}

TEST(Plan, refuses_sizes_that_cannot_be) {
  const AutoencoderKL vae(small_model());
  sentence_of([&] { vae.plan_decode(1, 0, 8); }, ErrorCode::kInvalidArgument);
  sentence_of([&] { vae.plan_encode(1, 8, -8); }, ErrorCode::kInvalidArgument);
  sentence_of([&] { vae.plan_decode(1, int64_t{1} << 40, int64_t{1} << 40); },
              ErrorCode::kInvalidArgument);
  sentence_of([&] { vae.plan_decode(1, std::numeric_limits<int64_t>::max(), 8); },
              ErrorCode::kInvalidArgument);
}

TEST(PadToFactor, repeats_the_last_row_and_column) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const Tensor padded = pad_to_factor(Tensor({1, 2, 3, 1}, values), 4);
  EXPECT_EQ(padded.shape(), (Shape{1, 4, 4, 1}));
  EXPECT_THAT(padded.values(),
              testing::ElementsAre(1, 2, 3, 3, 4, 5, 6, 6, 4, 5, 6, 6, 4, 5, 6, 6));
}

TEST(PadToFactor, leaves_multiples_alone) {
  const Tensor image = Random(1).normal_tensor({2, 4, 8, 3});
  const Tensor padded = pad_to_factor(image, 4);
  EXPECT_EQ(padded.shape(), image.shape());
  EXPECT_TRUE(std::ranges::equal(padded.values(), image.values()));
}

TEST(Crop, takes_back_what_padding_added) {
  const Tensor image = Random(1).normal_tensor({2, 5, 7, 3});
  const Tensor back = crop(pad_to_factor(image, 16), 5, 7);
  EXPECT_EQ(back.shape(), image.shape());
  EXPECT_TRUE(std::ranges::equal(back.values(), image.values()));
}

TEST(Crop, refuses_more_than_there_is) {
  const Tensor image({1, 4, 4, 3});
  EXPECT_THAT(sentence_of([&] { crop(image, 5, 4); }, ErrorCode::kInvalidArgument),
              HasSubstr("4x5"));
  sentence_of([&] { crop(image, 0, 4); }, ErrorCode::kInvalidArgument);
}

TEST(RandomModel, is_the_same_for_the_same_seed) {
  const Model a = random_model(small_config(), 5), b = random_model(small_config(), 5),
              c = random_model(small_config(), 6);
  const TensorView x = a.tensors.at("decoder.conv_in.weight"),
                   y = b.tensors.at("decoder.conv_in.weight"),
                   z = c.tensors.at("decoder.conv_in.weight");
  const auto bytes = static_cast<size_t>(byte_count(x.dtype, x.shape));
  EXPECT_TRUE(std::equal(x.data, x.data + bytes, y.data));
  EXPECT_FALSE(std::equal(x.data, x.data + bytes, z.data));
}

}  // namespace
}  // namespace calotype::test
