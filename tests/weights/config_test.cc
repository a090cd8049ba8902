#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "calotype/model_source.h"
#include "weights/checkpoints.h"
#include "weights/json.h"

namespace calotype {
namespace {

using test::read_all;
using test::refusal;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

AutoencoderKLConfig parse(const std::string& json) {
  return AutoencoderKLConfig::from_json(json, "config.json");
}

// The config of FLUX.1 with some fields replaced.
std::string flux_with(const std::string& field, const std::string& value) {
  Json json = Json::parse(family_config("flux").to_json());
  json[field] = Json::parse(value);
  return json.dump();
}

std::string flux_refusal(ErrorCode code, const std::string& field, const std::string& value) {
  return refusal(code, [&] { parse(flux_with(field, value)); });
}

TEST(Config, reads_the_config_of_z_image) {
  const AutoencoderKLConfig config = parse(R"({
    "_class_name": "AutoencoderKL", "_diffusers_version": "0.36.0.dev0", "_name_or_path": "flux-dev",
    "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
    "force_upcast": true, "in_channels": 3, "latent_channels": 16, "latents_mean": null,
    "latents_std": null, "layers_per_block": 2, "mid_block_add_attention": true,
    "norm_num_groups": 32, "out_channels": 3, "sample_size": 1024, "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
    "use_post_quant_conv": false, "use_quant_conv": false})");
  EXPECT_EQ(config, family_config("flux"));
}

TEST(Config, reads_the_config_of_stable_diffusion_1_5) {
  const AutoencoderKLConfig config = parse(R"({
    "_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0", "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
    "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32,
    "out_channels": 3, "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]})");
  EXPECT_EQ(config, family_config("sd1"));
}

TEST(Config, reads_the_config_of_flux_2) {
  const AutoencoderKLConfig config = parse(R"({
    "_class_name": "AutoencoderKLFlux2", "act_fn": "silu", "batch_norm_eps": 0.0001,
    "batch_norm_momentum": 0.1, "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
    "force_upcast": true, "in_channels": 3, "latent_channels": 32, "layers_per_block": 2,
    "mid_block_add_attention": true, "norm_num_groups": 32, "out_channels": 3, "patch_size": [2, 2],
    "sample_size": 1024,
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
    "use_post_quant_conv": true, "use_quant_conv": true})");
  EXPECT_EQ(config, family_config("flux2"));
  EXPECT_EQ(config.spatial_factor(), 16);
  EXPECT_EQ(config.channels(), 128);
}

TEST(Config, reads_the_small_decoder_of_flux_2) {
  Json json = Json::parse(family_config("flux2").to_json());
  json["decoder_block_out_channels"] = {96, 192, 384, 384};
  const AutoencoderKLConfig config = parse(json.dump());
  EXPECT_THAT(config.decoder_channels(), ElementsAre(96, 192, 384, 384));
  EXPECT_THAT(config.block_out_channels, ElementsAre(128, 256, 512, 512));
}

TEST(Config, omitted_fields_take_the_defaults_of_autoencoder_kl) {
  const AutoencoderKLConfig config = parse("{}");
  EXPECT_EQ(config, AutoencoderKLConfig());
  EXPECT_EQ(config.layers_per_block, 1);
  EXPECT_EQ(config.latent_channels, 4);
  EXPECT_EQ(config.norm_num_groups, 32);
  EXPECT_EQ(config.scaling_factor, 0.18215);
  EXPECT_TRUE(config.use_quant_conv && config.use_post_quant_conv);
  EXPECT_TRUE(config.mid_block_add_attention);
}

TEST(Config, omitted_fields_take_the_defaults_of_autoencoder_kl_flux2) {
  EXPECT_EQ(parse(R"({"_class_name": "AutoencoderKLFlux2"})"), family_config("flux2"));
}

TEST(Config, ignores_unknown_fields) {
  EXPECT_EQ(parse(flux_with("something_new", R"({"deep": [1, 2]})")), family_config("flux"));
}

TEST(Config, swish_is_silu) {
  EXPECT_EQ(parse(flux_with("act_fn", "\"swish\"")), family_config("flux"));
}

TEST(Config, takes_the_height_of_a_sample_size_of_two) {
  EXPECT_EQ(parse(flux_with("sample_size", "[256, 512]")).sample_size, 256);
}

TEST(Config, prints_what_it_reads) {
  for (const std::string& name : family_names()) {
    AutoencoderKLConfig config = family_config(name);
    EXPECT_EQ(parse(config.to_json()), config) << name;
  }
  AutoencoderKLConfig config = family_config("sd1");
  config.latents_mean = {0.1, -1e-7, 1.0 / 3, 4};
  config.latents_std = {1, 2, 3, 1e-3};
  config.shift_factor = -0.17861664295196533;
  EXPECT_EQ(parse(config.to_json()), config);
}

TEST(Config, prints_as_diffusers_does) {
  const std::string json = family_config("flux").to_json();
  EXPECT_THAT(json, HasSubstr("{\n  \"_class_name\": \"AutoencoderKL\",\n  \"act_fn\": \"silu\",\n"
                              "  \"block_out_channels\": [\n    128,\n    256,\n"));
  EXPECT_THAT(json, HasSubstr("  \"scaling_factor\": 0.3611,\n  \"shift_factor\": 0.1159,\n"));
  EXPECT_TRUE(json.ends_with("}\n"));
}

TEST(Config, reads_the_embedded_models_config) {
  const AutoencoderKLConfig config = parse(read_all(CALOTYPE_MODELS "/mini/config.json"));
  EXPECT_THAT(config.block_out_channels, ElementsAre(64, 64, 128, 128));
  EXPECT_EQ(config.spatial_factor(), 8);
}

TEST(Config, refuses_factors_that_float32_has_not) {
  for (const char* value : {"1e-320", "1e-40", "1e39", "1e308", "0", "-1"}) {
    EXPECT_THAT(flux_refusal(ErrorCode::kInvalidData, "scaling_factor", value),
                HasSubstr("config.json: the field scaling_factor is"));
  }
  for (const char* value : {"1e-320", "1e308", "-1e39"}) {
    EXPECT_THAT(flux_refusal(ErrorCode::kInvalidData, "shift_factor", value),
                HasSubstr("config.json: the field shift_factor is"));
  }
  Json json = Json::parse(family_config("sd1").to_json());
  json["latents_mean"] = {0, 1, -2, 3};
  json["latents_std"] = {1, 1, 1, 1e-320};
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { parse(json.dump()); }),
              HasSubstr("latents_std"));
  json["latents_std"] = {1, 1, 1, 1};
  parse(json.dump());
  json["latents_mean"][2] = 1e308;
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { parse(json.dump()); }),
              HasSubstr("latents_mean"));
}

TEST(Config, sentences_about_entries_begin_with_the_file) {
  EXPECT_THAT(flux_refusal(ErrorCode::kInvalidData, "block_out_channels", "[128, \"wide\"]"),
              ::testing::StartsWith("config.json: the field block_out_channels: an entry"));
}

TEST(Config, refuses_other_classes_by_name) {
  EXPECT_THAT(flux_refusal(ErrorCode::kUnsupported, "_class_name", "\"AutoencoderTiny\""),
              HasSubstr("config.json: describes a AutoencoderTiny"));
}

TEST(Config, refuses_other_blocks_and_activations_by_name) {
  EXPECT_THAT(flux_refusal(ErrorCode::kUnsupported, "down_block_types",
                           R"(["DownEncoderBlock2D","AttnDownEncoderBlock2D",
                               "DownEncoderBlock2D","DownEncoderBlock2D"])"),
              HasSubstr("AttnDownEncoderBlock2D"));
  EXPECT_THAT(flux_refusal(ErrorCode::kUnsupported, "up_block_types",
                           R"(["UpDecoderBlock2D","SkipUpBlock2D",
                               "UpDecoderBlock2D","UpDecoderBlock2D"])"),
              HasSubstr("SkipUpBlock2D"));
  EXPECT_THAT(flux_refusal(ErrorCode::kUnsupported, "act_fn", "\"gelu\""), HasSubstr("\"gelu\""));
}

TEST(Config, refuses_absurd_numbers_by_field) {
  for (const char* field : {"in_channels", "out_channels", "latent_channels", "layers_per_block",
                            "norm_num_groups", "sample_size"}) {
    for (const char* value : {"0", "-1", "1099511627776", "-9223372036854775808"}) {
      EXPECT_THAT(flux_refusal(ErrorCode::kInvalidData, field, value), HasSubstr(field)) << value;
    }
    for (const char* value : {"1.5", "\"3\"", "null", "[]", "1e40", "true"}) {
      EXPECT_THAT(flux_refusal(ErrorCode::kInvalidData, field, value), HasSubstr(field)) << value;
    }
  }
}

TEST(Config, refuses_absurd_widths) {
  for (const char* value : {"[128,256,0,512]", "[128,256,-512,512]", "[128,256,1099511627776,512]",
                            "[]", "7", "[128,256,512.5,512]", "[128,256,null,512]"}) {
    EXPECT_THAT(flux_refusal(ErrorCode::kInvalidData, "block_out_channels", value),
                HasSubstr("block_out_channels"))
        << value;
  }
}

TEST(Config, refuses_more_than_sixteen_levels) {
  AutoencoderKLConfig config = family_config("flux");
  config.block_out_channels.assign(17, 32);
  config.down_block_types.resize(17, "DownEncoderBlock2D");
  config.up_block_types.resize(17, "UpDecoderBlock2D");
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { config.validate("config.json"); }),
              HasSubstr("block_out_channels (its length) is 17"));
  config.block_out_channels.resize(16);
  config.down_block_types.resize(16);
  config.up_block_types.resize(16);
  EXPECT_NO_THROW(config.validate("config.json"));
}

TEST(Config, refuses_groups_that_do_not_divide_the_widths) {
  EXPECT_THAT(flux_refusal(ErrorCode::kInvalidData, "norm_num_groups", "24"),
              HasSubstr("norm_num_groups is 24, which does not divide the width 128"));
  Json json = Json::parse(family_config("flux2").to_json());
  json["decoder_block_out_channels"] = {96, 192, 384, 100};
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { parse(json.dump()); }),
              HasSubstr("the width 100 of decoder_block_out_channels"));
}

TEST(Config, groups_need_not_divide_latent_channels) {
  EXPECT_NO_THROW(parse(flux_with("latent_channels", "5")));
}

TEST(Config, refuses_lists_of_different_lengths) {
  EXPECT_THAT(
      flux_refusal(ErrorCode::kInvalidData, "down_block_types", R"(["DownEncoderBlock2D"])"),
      HasSubstr("has 1 entries, but block_out_channels has 4"));
  Json json = Json::parse(family_config("flux2").to_json());
  json["decoder_block_out_channels"] = {96, 192};
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { parse(json.dump()); }),
              HasSubstr("decoder_block_out_channels has 2 entries"));
}

TEST(Config, refuses_latent_statistics_that_make_no_sense) {
  EXPECT_THAT(flux_refusal(ErrorCode::kInvalidData, "scaling_factor", "0"),
              HasSubstr("scaling_factor"));
  EXPECT_THAT(flux_refusal(ErrorCode::kInvalidData, "scaling_factor", "-0.5"),
              HasSubstr("scaling_factor"));
  EXPECT_THAT(flux_refusal(ErrorCode::kInvalidData, "scaling_factor", "null"),
              HasSubstr("scaling_factor"));
  EXPECT_THAT(flux_refusal(ErrorCode::kInvalidData, "latents_mean", "[0]"),
              HasSubstr("they go together"));
  Json json = Json::parse(family_config("flux").to_json());
  json["latents_mean"] = json["latents_std"] = {1, 2, 3};
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { parse(json.dump()); }),
              HasSubstr("latents_mean has 3 entries, but there are 16"));
  json["latents_mean"] = json["latents_std"] = std::vector<int>(16, 0);
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { parse(json.dump()); }),
              HasSubstr("the field latents_std is 0"));
}

TEST(Config, refuses_patches_that_make_no_sense) {
  for (const char* value : {"[2]", "[0,0]", "[2,2,2]", "[1099511627776,2]", "2"}) {
    Json json = Json::parse(family_config("flux2").to_json());
    json["patch_size"] = Json::parse(value);
    EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { parse(json.dump()); }),
                HasSubstr("patch_size"))
        << value;
  }
}

TEST(Config, refuses_what_is_no_object) {
  for (const char* text : {"[]", "3", "\"x\"", "null"}) {
    EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { parse(text); }),
                HasSubstr("config.json: a config should be an object"));
  }
}

TEST(Families, are_told_by_their_latent_space) {
  for (const std::string& name : family_names()) EXPECT_EQ(family_of(family_config(name)), name);
  AutoencoderKLConfig config = family_config("sd1");
  config.sample_size = 256;  // like SD 1 and SD 2, which share a latent space: the first of them
  EXPECT_EQ(family_of(config), "sd1");
  config.scaling_factor = 0.2;
  EXPECT_EQ(family_of(config), "custom");
  config = family_config("flux");
  config.block_out_channels = {32, 32, 32, 32};  // a smaller decoder of the same latents
  EXPECT_EQ(family_of(config), "flux");
  config.shift_factor.reset();
  EXPECT_EQ(family_of(config), "custom");
}

TEST(Families, match_the_table_of_published_configs) {
  EXPECT_EQ(family_config("flux").shift_factor, 0.1159);
  EXPECT_EQ(family_config("sd3").scaling_factor, 1.5305);
  EXPECT_EQ(family_config("sd3").shift_factor, 0.0609);
  EXPECT_EQ(family_config("sdxl").scaling_factor, 0.13025);
  EXPECT_EQ(family_config("sdxl").shift_factor, std::nullopt);
  EXPECT_FALSE(family_config("sd3").use_quant_conv);
  EXPECT_TRUE(family_config("sdxl").use_post_quant_conv);
  for (const std::string& name : family_names()) {
    EXPECT_NO_THROW(family_config(name).validate(name));
    EXPECT_EQ(family_config(name).spatial_factor(), name == "flux2" ? 16 : 8);
  }
}

TEST(Families, refuses_an_unknown_family) {
  EXPECT_THAT(refusal(ErrorCode::kInvalidArgument, [] { family_config("sd9"); }),
              HasSubstr("those known are flux, sd1, sd2, sdxl, sd3, flux2"));
}

}  // namespace
}  // namespace calotype
