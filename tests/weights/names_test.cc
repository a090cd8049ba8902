#include "weights/names.h"

#include <gtest/gtest.h>

#include "calotype/autoencoder_kl.h"
#include "weights/checkpoints.h"

namespace calotype {
namespace {

TEST(Names, original_ones_get_those_of_diffusers) {
  // Pairs of the conversion script of diffusers.
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {"encoder.conv_in.weight", "encoder.conv_in.weight"},
      {"encoder.down.0.block.1.norm1.weight", "encoder.down_blocks.0.resnets.1.norm1.weight"},
      {"encoder.down.1.block.0.nin_shortcut.bias",
       "encoder.down_blocks.1.resnets.0.conv_shortcut.bias"},
      {"encoder.down.2.downsample.conv.weight", "encoder.down_blocks.2.downsamplers.0.conv.weight"},
      {"encoder.mid.block_1.conv1.weight", "encoder.mid_block.resnets.0.conv1.weight"},
      {"encoder.mid.block_2.norm2.bias", "encoder.mid_block.resnets.1.norm2.bias"},
      {"decoder.mid.attn_1.norm.weight", "decoder.mid_block.attentions.0.group_norm.weight"},
      {"decoder.mid.attn_1.q.weight", "decoder.mid_block.attentions.0.to_q.weight"},
      {"decoder.mid.attn_1.k.bias", "decoder.mid_block.attentions.0.to_k.bias"},
      {"decoder.mid.attn_1.v.weight", "decoder.mid_block.attentions.0.to_v.weight"},
      {"decoder.mid.attn_1.proj_out.weight", "decoder.mid_block.attentions.0.to_out.0.weight"},
      {"decoder.up.3.block.2.conv2.weight", "decoder.up_blocks.0.resnets.2.conv2.weight"},
      {"decoder.up.3.upsample.conv.bias", "decoder.up_blocks.0.upsamplers.0.conv.bias"},
      {"decoder.up.0.block.0.nin_shortcut.weight",
       "decoder.up_blocks.3.resnets.0.conv_shortcut.weight"},
      {"decoder.norm_out.weight", "decoder.conv_norm_out.weight"},
      {"decoder.conv_out.bias", "decoder.conv_out.bias"},
      {"quant_conv.weight", "quant_conv.weight"},
      {"bn.running_mean", "bn.running_mean"},
  };
  for (const auto& [original, diffusers] : pairs) {
    EXPECT_EQ(diffusers_name(original, 4), diffusers);
    EXPECT_EQ(original_name(diffusers, 4, false), original);
  }
}

TEST(Names, older_attentions_get_their_names_of_today) {
  const std::string attention = "encoder.mid_block.attentions.0.";
  EXPECT_EQ(diffusers_name(attention + "query.weight", 4), attention + "to_q.weight");
  EXPECT_EQ(diffusers_name(attention + "key.bias", 4), attention + "to_k.bias");
  EXPECT_EQ(diffusers_name(attention + "value.weight", 4), attention + "to_v.weight");
  EXPECT_EQ(diffusers_name(attention + "proj_attn.bias", 4), attention + "to_out.0.bias");
  EXPECT_EQ(diffusers_name(attention + "group_norm.bias", 4), attention + "group_norm.bias");
}

TEST(Names, quant_convs_of_flux_2_move_in_and_out) {
  EXPECT_EQ(diffusers_name("encoder.quant_conv.weight", 4), "quant_conv.weight");
  EXPECT_EQ(diffusers_name("decoder.post_quant_conv.bias", 4), "post_quant_conv.bias");
  EXPECT_EQ(original_name("quant_conv.weight", 4, true), "encoder.quant_conv.weight");
  EXPECT_EQ(original_name("quant_conv.weight", 4, false), "quant_conv.weight");
}

TEST(Names, the_original_network_is_the_one_of_diffusers) {
  std::map<std::string, Shape> expected;
  for (const auto& [name, shape] : network_tensors(family_config("sd1"))) expected[name] = shape;
  std::map<std::string, Shape> found;
  for (const test::Declared& tensor : test::ldm_tensors({})) {
    const std::string name = diffusers_name(tensor.name, 4);
    Shape shape = tensor.shape;
    if (is_attention_weight(name)) shape.resize(2);
    found[name] = shape;
    EXPECT_EQ(original_name(name, 4, false), tensor.name);
  }
  EXPECT_EQ(found, expected);
}

TEST(Names, hostile_numbers_stay_as_they_are) {
  for (const char* name :
       {"decoder.up.99999999999999999999.block.0.conv1.weight", "decoder.up.-1.block.0.x",
        "decoder.up.007.block.0.x", "decoder.up..block.0.x", "encoder.mid.block_0.x", "decoder.up.",
        "", "decoder.up.9.block.0.x"}) {
    EXPECT_EQ(diffusers_name(name, 4), name);
  }
}

TEST(Names, counts_the_levels_of_the_decoder) {
  EXPECT_EQ(decoder_levels({"decoder.up.0.block.0.x", "decoder.up.3.block.0.x", "a"}), 4);
  EXPECT_EQ(decoder_levels({"decoder.up_blocks.3.x", "decoder.up.12345.x", "decoder.up.x"}), 0);
}

TEST(Names, finds_the_prefix_of_a_full_checkpoint) {
  EXPECT_EQ(vae_prefix({"decoder.conv_in.weight"}), "");
  EXPECT_EQ(vae_prefix({"model.x", "first_stage_model.decoder.conv_in.weight"}),
            "first_stage_model.");
  EXPECT_EQ(vae_prefix({"vae.encoder.conv_in.weight"}), "vae.");
  EXPECT_EQ(vae_prefix({"vae.something", "decoder.conv_in.weight"}), "");
}

TEST(Names, leftovers_of_training_are_known) {
  EXPECT_TRUE(is_training_leftover("bn.num_batches_tracked"));
  EXPECT_TRUE(is_training_leftover("loss.discriminator.main.0.weight"));
  EXPECT_FALSE(is_training_leftover("bn.running_mean"));
  EXPECT_FALSE(is_training_leftover("decoder.conv_in.weight"));
}

}  // namespace
}  // namespace calotype
