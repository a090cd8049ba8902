// The configs that every checkpoint of a family has, and which family a config belongs to.
#include <algorithm>
#include <array>

#include "calotype/model_source.h"
#include "core/cat.h"

namespace calotype {
namespace {

struct Family {
  const char* name;
  int64_t latent_channels;
  double scaling_factor;
  std::optional<double> shift_factor;
  bool quant_convs;
  int64_t sample_size;
};

// From the vae/config.json of FLUX.1 and Z-Image, Stable Diffusion 1.5, 2.1, XL, 3 and FLUX.2.
constexpr int kFamilies = 6;
const std::array<Family, kFamilies> kTable = {{
    {"flux", 16, 0.3611, 0.1159, false, 1024},
    {"sd1", 4, 0.18215, std::nullopt, true, 512},
    {"sd2", 4, 0.18215, std::nullopt, true, 768},
    {"sdxl", 4, 0.13025, std::nullopt, true, 1024},
    {"sd3", 16, 1.5305, 0.0609, false, 1024},
    {"flux2", 32, 1, std::nullopt, true, 1024},
}};

bool same_latent_space(const AutoencoderKLConfig& a, const AutoencoderKLConfig& b) {
  return a.is_flux2() == b.is_flux2() && a.latent_channels == b.latent_channels &&
         a.patch_size == b.patch_size && a.spatial_factor() == b.spatial_factor() &&
         a.scaling_factor == b.scaling_factor && a.shift_factor == b.shift_factor &&
         a.latents_mean == b.latents_mean && a.latents_std == b.latents_std;
}

}  // namespace

const std::vector<std::string>& family_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    list.reserve(std::size(kTable));
    for (const Family& family : kTable) list.emplace_back(family.name);
    return list;
  }();
  return names;
}

AutoencoderKLConfig family_config(std::string_view name) {
  const auto family =
      std::ranges::find_if(kTable, [&](const Family& entry) { return name == entry.name; });
  if (family == kTable.end()) {
    std::string known;
    for (const std::string& each : family_names()) known += (known.empty() ? "" : ", ") + each;
    fail(ErrorCode::kInvalidArgument, "there is no family \"", name, "\"; those known are ", known);
  }
  AutoencoderKLConfig config;
  config.down_block_types.assign(4, "DownEncoderBlock2D");
  config.up_block_types.assign(4, "UpDecoderBlock2D");
  config.block_out_channels = {128, 256, 512, 512};
  config.layers_per_block = 2;
  config.latent_channels = family->latent_channels;
  config.scaling_factor = family->scaling_factor;
  config.shift_factor = family->shift_factor;
  config.use_quant_conv = config.use_post_quant_conv = family->quant_convs;
  config.sample_size = family->sample_size;
  if (name == "flux2") {
    config.class_name = "AutoencoderKLFlux2";
    config.patch_size = {2, 2};
  }
  return config;
}

std::string family_of(const AutoencoderKLConfig& config) {
  std::string found = "custom";
  for (const std::string& name : family_names()) {
    const AutoencoderKLConfig family = family_config(name);
    if (!same_latent_space(config, family)) continue;
    // SD 1 and SD 2 share one latent space; the size they were trained at tells them apart.
    if (found == "custom" || config.sample_size == family.sample_size) found = name;
  }
  return found;
}

}  // namespace calotype
