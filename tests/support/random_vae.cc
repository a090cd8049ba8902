#include "support/random_vae.h"

#include <algorithm>
#include <memory>
#include <sstream>

namespace calotype::test {
namespace {

void set_levels(AutoencoderKLConfig& config, size_t levels) {
  config.down_block_types.assign(levels, "DownEncoderBlock2D");
  config.up_block_types.assign(levels, "UpDecoderBlock2D");
}

}  // namespace

AutoencoderKLConfig random_config(Random& random, int64_t levels, int64_t width) {
  AutoencoderKLConfig config;
  const int64_t depth = random.integer(1, levels);
  config.norm_num_groups = random.pick(std::vector<int64_t>{1, 2, 3, 4, 8});
  const auto widths = [&] {
    std::vector<int64_t> list;
    for (int64_t i = 0; i < depth; i++) {
      list.push_back(config.norm_num_groups *
                     random.integer(1, std::max<int64_t>(1, width / config.norm_num_groups)));
    }
    return list;
  };
  set_levels(config, static_cast<size_t>(depth));
  config.block_out_channels = widths();
  config.layers_per_block = random.integer(1, 2);
  config.latent_channels = random.integer(1, 17);
  config.use_quant_conv = random.integer(0, 1) == 1;
  config.use_post_quant_conv = random.integer(0, 1) == 1;
  config.mid_block_add_attention = random.integer(0, 2) > 0;
  if (random.integer(0, 3) == 0) {
    config.class_name = "AutoencoderKLFlux2";
    config.patch_size = {2, 2};
    if (random.integer(0, 1) == 1) config.decoder_block_out_channels = widths();
  } else if (random.integer(0, 1) == 1) {
    config.shift_factor = random.uniform(-1, 1);
  }
  return config;
}

AutoencoderKLConfig small_config() {
  AutoencoderKLConfig config;
  set_levels(config, 2);
  config.block_out_channels = {8, 12};
  config.norm_num_groups = 4;
  config.layers_per_block = 2;
  return config;
}

AutoencoderKLConfig small_flux2_config() {
  AutoencoderKLConfig config = small_config();
  config.class_name = "AutoencoderKLFlux2";
  config.patch_size = {2, 2};
  return config;
}

Model model_of_zeros(const AutoencoderKLConfig& config) {
  Model model;
  model.config = config;
  model.source = "zeros";
  const auto tensors = network_tensors(config);
  int64_t largest = 0;
  for (const auto& [name, shape] : tensors) {
    largest = std::max(largest, byte_count(DType::kBF16, shape));
  }
  auto zeros = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(largest));
  for (const auto& [name, shape] : tensors) {
    model.tensors[name] = {DType::kBF16, shape, zeros->data()};
  }
  model.storage.push_back(std::move(zeros));
  return model;
}

std::string describe(const AutoencoderKLConfig& config) {
  std::ostringstream text;
  text << config.class_name << " widths " << shape_string(config.block_out_channels) << " decoder "
       << shape_string(config.decoder_channels()) << " groups " << config.norm_num_groups
       << " layers " << config.layers_per_block << " latent " << config.latent_channels << " quant "
       << config.use_quant_conv << config.use_post_quant_conv << " attention "
       << config.mid_block_add_attention;
  return text.str();
}

}  // namespace calotype::test
