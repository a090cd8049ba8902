// Full-size checkpoints with the key lists of the real files: the config found must be the
// family's.
#include "weights/infer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "calotype/autoencoder_kl.h"
#include "support/random.h"
#include "weights/checkpoints.h"
#include "weights/safetensors.h"

namespace calotype {
namespace {

using test::Declared;
using test::LdmOptions;
using test::refusal;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Checkpoint : public ::testing::Test {
 protected:
  Model load(std::vector<Declared> tensors, const std::vector<Declared>& others = {},
             const LoadOptions& options = {}) {
    tensors.insert(tensors.end(), others.begin(), others.end());
    test::write_sparse(path_, tensors);
    return load_model(path_, options);
  }
  // Loads, compares the config, and lets the network check every name and shape.
  void expect_family(const std::string& family, const std::vector<Declared>& vae,
                     const std::vector<Declared>& others = {}) {
    Model model = load(vae, others);
    EXPECT_TRUE(model.config_inferred);
    EXPECT_EQ(model.config, family_config(family)) << model.config.to_json();
    EXPECT_EQ(model.family, family);
    const AutoencoderKL network(std::move(model));
    EXPECT_TRUE(network.has_encoder() && network.has_decoder());
  }

  const test::TemporaryFolder folder_;
  const std::string path_ = folder_.path("model.safetensors");
};

std::vector<Declared> sd1_others(int64_t text_width) {
  return {
      {"alphas_cumprod", {1000}},
      {"betas", {1000}},
      {"model.diffusion_model.input_blocks.0.0.weight", {320, 4, 3, 3}},
      {"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
       {320, text_width}},
      {"model.diffusion_model.output_blocks.11.0.skip_connection.weight", {320, 640, 1, 1}},
      {"model_ema.decay", {}},
  };
}

TEST_F(Checkpoint, stable_diffusion_1_5_is_read_from_a_full_one) {
  std::vector<Declared> others = sd1_others(768);
  others.push_back(
      {"cond_stage_model.transformer.text_model.embeddings.position_ids", {1, 77}, DType::kI64});
  others.push_back(
      {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", {49408, 768}});
  expect_family("sd1", test::ldm_tensors({.prefix = "first_stage_model."}), others);
}

TEST_F(Checkpoint, stable_diffusion_1_5_is_told_without_its_text_encoder) {
  expect_family("sd1", test::ldm_tensors({.prefix = "first_stage_model.", .dtype = DType::kF16}),
                sd1_others(768));
}

TEST_F(Checkpoint, stable_diffusion_2_1_is_read_from_a_full_one) {
  std::vector<Declared> others = sd1_others(1024);
  expect_family("sd2", test::ldm_tensors({.prefix = "first_stage_model."}), others);
  others.push_back({"cond_stage_model.model.token_embedding.weight", {49408, 1024}});
  expect_family("sd2", test::ldm_tensors({.prefix = "first_stage_model."}), others);
}

TEST_F(Checkpoint, stable_diffusion_2_1_unclip_is_told_from_xl) {
  std::vector<Declared> others = sd1_others(1024);
  others.push_back({"cond_stage_model.model.token_embedding.weight", {49408, 1024}});
  others.push_back({"model.diffusion_model.label_emb.0.0.weight", {1280, 2048}});
  expect_family("sd2", test::ldm_tensors({.prefix = "first_stage_model."}), others);
}

TEST_F(Checkpoint, stable_diffusion_xl_is_read_from_a_full_one) {
  expect_family("sdxl", test::ldm_tensors({.prefix = "first_stage_model.", .dtype = DType::kF16}),
                {{"conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
                  {1, 77},
                  DType::kI64},
                 {"conditioner.embedders.1.model.logit_scale", {}, DType::kF16},
                 {"model.diffusion_model.label_emb.0.0.weight", {1280, 2816}, DType::kF16}});
}

TEST_F(Checkpoint, playground_keeps_the_statistics_of_its_latents) {
  std::vector<SafetensorsEntry> entries;
  const std::vector<float> mean = {-1.5f, 2, 0, 0.25f}, deviation = {8, 6, 6.5f, 5};
  const std::vector<std::byte> zeros(4 << 20);
  for (const Declared& tensor : test::diffusers_tensors(test::small_config())) {
    entries.push_back(SafetensorsEntry::of("first_stage_model." + tensor.name,
                                           {tensor.dtype, tensor.shape, zeros.data()}));
  }
  const auto view = [](const std::vector<float>& values) {
    return TensorView{DType::kF32, {1, 4, 1, 1}, reinterpret_cast<const std::byte*>(values.data())};
  };
  entries.push_back(SafetensorsEntry::of("edm_mean", view(mean)));
  entries.push_back(SafetensorsEntry::of("edm_std", view(deviation)));
  write_safetensors(path_, {}, entries);
  const AutoencoderKLConfig config = load_model(path_).config;
  EXPECT_THAT(config.latents_mean, ElementsAre(-1.5, 2, 0, 0.25));
  EXPECT_THAT(config.latents_std, ElementsAre(8, 6, 6.5, 5));
  EXPECT_EQ(config.scaling_factor, 0.5);
}

TEST_F(Checkpoint, stable_diffusion_3_is_read_from_a_full_one) {
  expect_family("sd3",
                test::ldm_tensors({.latent_channels = 16,
                                   .quant_convs = false,
                                   .prefix = "first_stage_model.",
                                   .dtype = DType::kF16}),
                {{"model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias",
                  {9216},
                  DType::kF16},
                 {"text_encoders.clip_g.transformer.text_model.embeddings.token_embedding.weight",
                  {49408, 1280},
                  DType::kF8E4M3},
                 {"text_encoders.clip_l.logit_scale", {}, DType::kF16}});
}

TEST_F(Checkpoint, flux_1_is_read_from_its_ae_file) {
  expect_family("flux", test::ldm_tensors({.latent_channels = 16, .quant_convs = false}));
}

TEST_F(Checkpoint, flux_1_is_read_from_a_full_one) {
  expect_family("flux",
                test::ldm_tensors({.latent_channels = 16, .quant_convs = false, .prefix = "vae."}),
                {{"model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale",
                  {128},
                  DType::kF8E4M3}});
}

TEST_F(Checkpoint, z_image_is_read_from_a_full_one) {
  expect_family("flux",
                test::ldm_tensors({.latent_channels = 16, .quant_convs = false, .prefix = "vae."}),
                {{"model.diffusion_model.cap_embedder.0.weight", {2560}, DType::kBF16}});
}

TEST_F(Checkpoint, flux_2_is_read_from_its_ae_file) {
  expect_family("flux2", test::ldm_tensors({.latent_channels = 32, .flux2 = true}));
  EXPECT_EQ(load_model(path_).keys, "original");
}

TEST_F(Checkpoint, flux_2_is_read_from_diffusers_keys) {
  std::vector<Declared> tensors = test::diffusers_tensors(family_config("flux2"));
  tensors.push_back({"bn.num_batches_tracked", {}, DType::kI64});
  expect_family("flux2", tensors);
}

TEST_F(Checkpoint, older_diffusers_names_are_read) {
  std::vector<Declared> tensors = test::diffusers_tensors(family_config("sd1"), true);
  expect_family("sd1", tensors);
  EXPECT_EQ(load_model(path_).keys, "diffusers");
}

TEST_F(Checkpoint, every_familys_diffusers_keys_are_read) {
  for (const char* family : {"flux", "sd1", "flux2"}) {
    expect_family(family, test::diffusers_tensors(family_config(family)));
  }
}

TEST_F(Checkpoint, a_bare_file_follows_the_family_that_is_asked_for) {
  for (const char* family : {"sd2", "sdxl"}) {
    const Model model = load(test::ldm_tensors({}), {}, {.family = family});
    EXPECT_EQ(model.config, family_config(family));
  }
  const Model model =
      load(test::ldm_tensors({.latent_channels = 16, .quant_convs = false}), {}, {.family = "sd3"});
  EXPECT_EQ(model.config, family_config("sd3"));
}

TEST_F(Checkpoint, a_family_of_other_channels_is_refused) {
  EXPECT_THAT(refusal(ErrorCode::kInvalidArgument,
                      [&] { load(test::ldm_tensors({}), {}, {.family = "flux"}); }),
              HasSubstr("is not of the family flux, which has 16 latent channels: it has 4"));
  EXPECT_THAT(refusal(ErrorCode::kInvalidArgument, [&] { load_model("", {.family = "sd9"}); }),
              HasSubstr("no family \"sd9\""));
}

TEST_F(Checkpoint, a_family_decides_over_a_config_too) {
  AutoencoderKLConfig wrong = family_config("sd1");
  wrong.latents_mean = {1, 2, 3, 4};
  wrong.latents_std = {1, 2, 3, 4};
  wrong.shift_factor = 0.5;
  const auto load_baked = [&](const std::string& family) {
    test::write_sparse(path_, test::ldm_tensors({}), {{"calotype.config", wrong.to_json()}});
    return load_model(path_, {.family = family});
  };
  for (const char* family : {"sd1", "sd2", "sdxl"}) {
    const Model model = load_baked(family);
    AutoencoderKLConfig expected = family_config(family);
    if (expected.sample_size != 768) expected.sample_size = 512;  // nothing of the latent space
    EXPECT_EQ(model.config, expected);
    EXPECT_EQ(model.family, family);
    EXPECT_FALSE(model.config_inferred);
  }
  EXPECT_EQ(load_baked("").config, wrong);
  EXPECT_THAT(refusal(ErrorCode::kInvalidArgument, [&] { load_baked("flux"); }),
              HasSubstr("is not of the family flux, which has 16 latent channels: it has 4"));
}

TEST_F(Checkpoint, a_family_gives_flux_2_its_patches) {
  AutoencoderKLConfig wrong = family_config("flux2");
  wrong.class_name = "AutoencoderKL";  // as it is inferred without batch norm
  wrong.patch_size = {1, 1};
  std::vector<Declared> tensors = test::diffusers_tensors(family_config("flux2"));
  std::erase_if(tensors, [](const Declared& t) { return t.name.starts_with("bn."); });
  const auto load_baked = [&] {
    test::write_sparse(path_, tensors, {{"calotype.config", wrong.to_json()}});
    return load_model(path_, {.family = "flux2"});
  };
  EXPECT_EQ(load_baked().config, family_config("flux2"));
  tensors.push_back({"bn.running_mean", {32}});
  EXPECT_THAT(refusal(ErrorCode::kInvalidArgument, load_baked),
              HasSubstr("whose patches have 128 channels: its tensor \"bn.running_mean\" has 32"));
}

TEST_F(Checkpoint, the_small_decoder_of_flux_2_is_read) {
  AutoencoderKLConfig small = family_config("flux2");
  small.decoder_block_out_channels = {96, 192, 384, 384};
  const Model whole = load(test::ldm_tensors(
      {.latent_channels = 32, .flux2 = true, .decoder_widths = {96, 192, 384, 384}}));
  EXPECT_EQ(whole.config, small);
  std::vector<Declared> decoder;
  for (const Declared& tensor : test::diffusers_tensors(small)) {
    if (!tensor.name.starts_with("encoder.") && !tensor.name.starts_with("quant_conv.")) {
      decoder.push_back(tensor);
    }
  }
  EXPECT_EQ(load(decoder).config, small);
}

TEST_F(Checkpoint, other_networks_are_inferred_from_their_shapes) {
  AutoencoderKLConfig config = family_config("flux");
  config.block_out_channels = {32, 96, 64};
  config.down_block_types.resize(3);
  config.up_block_types.resize(3);
  config.layers_per_block = 3;
  config.in_channels = 4;
  config.out_channels = 1;
  config.mid_block_add_attention = false;
  EXPECT_EQ(load(test::diffusers_tensors(config)).config, config);
}

TEST_F(Checkpoint, one_half_is_enough) {
  for (const std::string half : {"encoder.", "decoder."}) {
    std::vector<Declared> tensors;
    for (const Declared& tensor : test::diffusers_tensors(family_config("flux"))) {
      if (tensor.name.starts_with(half)) tensors.push_back(tensor);
    }
    Model model = load(tensors);
    EXPECT_EQ(model.config, family_config("flux"));
    const AutoencoderKL network(std::move(model));
    EXPECT_EQ(network.has_encoder(), half == "encoder.");
    EXPECT_EQ(network.has_decoder(), half == "decoder.");
  }
}

TEST_F(Checkpoint, channels_of_no_family_get_the_defaults_of_the_class) {
  AutoencoderKLConfig config = test::small_config();
  config.latent_channels = 8;
  config.sample_size = AutoencoderKLConfig().sample_size;
  const Model model = load(test::diffusers_tensors(config));
  EXPECT_EQ(model.config, config);
  EXPECT_EQ(model.family, "custom");
}

TEST_F(Checkpoint, an_unknown_tensor_survives_until_the_network_refuses_it_by_name) {
  std::vector<Declared> tensors = test::diffusers_tensors(family_config("sd1"));
  tensors.push_back({"decoder.up_blocks.0.resnets.0.extra.weight", {3}});
  Model model = load(tensors);
  ASSERT_TRUE(model.tensors.contains("decoder.up_blocks.0.resnets.0.extra.weight"));
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { AutoencoderKL network(std::move(model)); }),
              HasSubstr("decoder.up_blocks.0.resnets.0.extra.weight"));
}

TEST_F(Checkpoint, a_file_without_an_autoencoder_is_refused) {
  EXPECT_THAT(refusal(ErrorCode::kInvalidData,
                      [&] {
                        load({{"model.layers.0.weight", {3}}});
                      }),
              HasSubstr("holds no autoencoder: none of its 1 tensors"));
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { load({}); }), HasSubstr("no autoencoder"));
}

TEST_F(Checkpoint, tensors_that_tell_too_little_are_refused_by_name) {
  EXPECT_THAT(refusal(ErrorCode::kInvalidData,
                      [&] {
                        load({{"decoder.conv_in.weight", {3}}});
                      }),
              HasSubstr("\"decoder.conv_out.weight\""));
  EXPECT_THAT(
      refusal(ErrorCode::kInvalidData,
              [&] {
                load({{"decoder.conv_in.weight", {3}}, {"decoder.conv_out.weight", {3, 64, 3, 3}}});
              }),
      HasSubstr("\"decoder.conv_in.weight\" has the shape [3]"));
}

TEST_F(Checkpoint, widths_that_32_groups_do_not_divide_are_refused) {
  AutoencoderKLConfig config = test::small_config();
  config.block_out_channels = {36, 48};
  config.norm_num_groups = 12;
  EXPECT_THAT(refusal(ErrorCode::kUnsupported, [&] { load(test::diffusers_tensors(config)); }),
              HasSubstr("no shape tells norm_num_groups"));
}

TEST_F(Checkpoint, halves_that_do_not_belong_together_are_refused) {
  const auto mixed = [](AutoencoderKLConfig encoder, AutoencoderKLConfig decoder) {
    std::vector<Declared> tensors;
    for (const Declared& tensor : test::diffusers_tensors(encoder)) {
      if (tensor.name.starts_with("encoder.")) tensors.push_back(tensor);
    }
    for (const Declared& tensor : test::diffusers_tensors(decoder)) {
      if (tensor.name.starts_with("decoder.")) tensors.push_back(tensor);
    }
    return tensors;
  };
  EXPECT_THAT(refusal(ErrorCode::kInvalidData,
                      [&] { load(mixed(family_config("flux"), family_config("sd1"))); }),
              HasSubstr("its encoder has 16 latent channels, its decoder has 4"));
  EXPECT_THAT(refusal(ErrorCode::kInvalidData,
                      [&] { load(mixed(family_config("sd1"), test::small_config())); }),
              HasSubstr("levels"));
  AutoencoderKLConfig wide = family_config("sd1");
  wide.block_out_channels = {128, 256, 512, 1024};
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { load(mixed(family_config("sd1"), wide)); }),
              HasSubstr("an AutoencoderKL has the same in both"));
}

TEST_F(Checkpoint, weights_of_whole_numbers_are_refused) {
  std::vector<Declared> tensors = test::diffusers_tensors(family_config("sd1"));
  tensors[3].dtype = DType::kI32;
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { load(tensors); }),
              HasSubstr("\"" + tensors[3].name + "\" has the dtype I32"));
}

TEST_F(Checkpoint, one_tensor_under_two_names_is_refused) {
  std::vector<Declared> tensors = test::diffusers_tensors(family_config("sd1"));
  tensors.push_back({"decoder.norm_out.weight", {128}});
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { load(tensors); }),
              HasSubstr("both stand for \"decoder.conv_norm_out.weight\""));
}

TEST_F(Checkpoint, attention_weights_become_matrices) {
  const Model model = load(test::ldm_tensors({}));
  EXPECT_THAT(model.tensors.at("decoder.mid_block.attentions.0.to_q.weight").shape,
              ElementsAre(512, 512));
  EXPECT_THAT(model.tensors.at("post_quant_conv.weight").shape, ElementsAre(4, 4, 1, 1));
}

TEST_F(Checkpoint, the_config_in_the_metadata_is_preferred) {
  AutoencoderKLConfig config = family_config("sd1");
  config.scaling_factor = 0.5;
  test::write_sparse(path_, test::ldm_tensors({}), {{"calotype.config", config.to_json()}});
  const Model model = load_model(path_);
  EXPECT_FALSE(model.config_inferred);
  EXPECT_EQ(model.config, config);
}

}  // namespace
}  // namespace calotype
