// AutoencoderKLConfig: reading, checking and printing a diffusers config.json.
#include <cmath>
#include <limits>

#include "calotype/model_source.h"
#include "core/cat.h"
#include "weights/json.h"

namespace calotype {
namespace {

// Beyond these no autoencoder is meant, and below them no product of a shape overflows.
constexpr size_t kMaxLevels = 16;
constexpr int64_t kMaxChannels = 1 << 16;
constexpr int64_t kMaxLayers = 64;
constexpr int64_t kMaxPatch = 16;
constexpr int64_t kMaxSampleSize = 1 << 24;

constexpr const char* kDownBlock = "DownEncoderBlock2D";
constexpr const char* kUpBlock = "UpDecoderBlock2D";

// The members of a config that are there: a missing one leaves the class's default.
class Fields {
 public:
  Fields(const Json& object, const std::string& file) : object_(object), file_(file) {}

  void read(const char* key, int64_t& value) const {
    if (const Json* json = find(key)) value = json_integer(*json, where(key));
  }
  void read(const char* key, double& value) const {
    if (const Json* json = find(key)) value = json_number(*json, where(key));
  }
  void read(const char* key, bool& value) const {
    if (const Json* json = find(key)) value = json_boolean(*json, where(key));
  }
  void read(const char* key, std::string& value) const {
    if (const Json* json = find(key)) value = json_string(*json, where(key));
  }
  void read(const char* key, std::optional<double>& value) const {
    const Json* json = find(key);
    if (json != nullptr && !json->is_null()) value = json_number(*json, where(key));
  }
  void read(const char* key, std::vector<int64_t>& values) const {
    read_list(key, values, json_integer);
  }
  void read(const char* key, std::vector<std::string>& values) const {
    read_list(key, values, json_string);
  }
  // null stands for an empty list
  template <class T>
  void read_optional(const char* key, std::vector<T>& values) const {
    const Json* json = find(key);
    if (json == nullptr || json->is_null()) return;
    if constexpr (std::is_same_v<T, double>) {
      read_list(key, values, json_number);
    } else {
      read(key, values);
    }
  }
  // sample_size may be a number or [height, width]
  void read_size(const char* key, int64_t& value) const {
    const Json* json = find(key);
    if (json == nullptr) return;
    value = json_integer(json->is_array() && !json->empty() ? json->front() : *json, where(key));
  }

 private:
  const Json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() ? nullptr : &*found;
  }
  std::string where(const char* key) const { return cat(file_, ": the field ", key); }

  template <class T, class Parse>
  void read_list(const char* key, std::vector<T>& values, Parse parse) const {
    const Json* json = find(key);
    if (json == nullptr) return;
    if (!json->is_array()) {
      fail(ErrorCode::kInvalidData, where(key), " should be an array, not ", json_kind(*json));
    }
    if (json->size() > static_cast<size_t>(kMaxChannels)) {
      fail(ErrorCode::kInvalidData, where(key), " has ", json->size(), " entries");
    }
    values.clear();
    for (const Json& item : *json) values.push_back(parse(item, cat(where(key), ": an entry")));
  }

  const Json& object_;
  const std::string& file_;
};

// The defaults of diffusers' class of that name.
AutoencoderKLConfig defaults_of(const std::string& class_name, const std::string& file) {
  AutoencoderKLConfig config;
  if (class_name == "AutoencoderKL") return config;
  if (class_name != "AutoencoderKLFlux2") {
    fail(ErrorCode::kUnsupported, file, ": describes a ", class_name,
         "; only AutoencoderKL and AutoencoderKLFlux2 are implemented");
  }
  config.class_name = class_name;
  config.down_block_types.assign(4, kDownBlock);
  config.up_block_types.assign(4, kUpBlock);
  config.block_out_channels = {128, 256, 512, 512};
  config.layers_per_block = 2;
  config.latent_channels = 32;
  config.sample_size = 1024;
  config.scaling_factor = 1;  // not a field of the class: its latents are batch-normed
  config.patch_size = {2, 2};
  return config;
}

void check_range(const std::string& file, const char* field, int64_t value, int64_t low,
                 int64_t high) {
  if (value < low || value > high) {
    fail(ErrorCode::kInvalidData, file, ": the field ", field, " is ", value,
         ", which is not from ", low, " to ", high);
  }
}

void check_types(const std::string& file, const char* field, const std::vector<std::string>& types,
                 const char* implemented, size_t levels) {
  for (const std::string& type : types) {
    if (type != implemented) {
      fail(ErrorCode::kUnsupported, file, ": the field ", field, " has the block type ",
           json_kind(Json(type)), "; only ", implemented, " is implemented");
    }
  }
  if (types.size() != levels) {
    fail(ErrorCode::kInvalidData, file, ": the field ", field, " has ", types.size(),
         " entries, but block_out_channels has ", levels);
  }
}

void check_widths(const std::string& file, const char* field, const std::vector<int64_t>& widths,
                  int64_t groups) {
  for (const int64_t width : widths) {
    check_range(file, field, width, 1, kMaxChannels);
    if (width % groups != 0) {
      fail(ErrorCode::kInvalidData, file, ": the field norm_num_groups is ", groups,
           ", which does not divide the width ", width, " of ", field);
    }
  }
}

// Pixels and latents are float32: what multiplies or divides them must be a normal number there,
// or it becomes 0 or infinity.
bool is_normal_float(double value) {
  constexpr double kSmallest = std::numeric_limits<float>::min();
  constexpr double kLargest = std::numeric_limits<float>::max();
  return std::abs(value) >= kSmallest && std::abs(value) <= kLargest;
}

void check_factor(const std::string& file, const char* field, double value) {
  if (value <= 0 || !is_normal_float(value)) {
    fail(ErrorCode::kInvalidData, file, ": the field ", field, " is ", value,
         ", but it must be greater than 0 and a normal number of float32");
  }
}

void check_offset(const std::string& file, const char* field, double value) {
  if (value != 0 && !is_normal_float(value)) {
    fail(ErrorCode::kInvalidData, file, ": the field ", field, " is ", value,
         ", but it must be 0 or a normal number of float32");
  }
}

void check_latent_statistics(const AutoencoderKLConfig& config, const std::string& file) {
  check_factor(file, "scaling_factor", config.scaling_factor);
  if (config.shift_factor) check_offset(file, "shift_factor", *config.shift_factor);
  if (config.latents_mean.size() != config.latents_std.size()) {
    fail(ErrorCode::kInvalidData, file, ": latents_mean has ", config.latents_mean.size(),
         " entries and latents_std ", config.latents_std.size(), "; they go together");
  }
  const auto channels = static_cast<size_t>(config.latent_channels);
  if (!config.latents_mean.empty() && config.latents_mean.size() != channels) {
    fail(ErrorCode::kInvalidData, file, ": latents_mean has ", config.latents_mean.size(),
         " entries, but there are ", channels, " latent channels");
  }
  for (const double mean : config.latents_mean) check_offset(file, "latents_mean", mean);
  for (const double deviation : config.latents_std) check_factor(file, "latents_std", deviation);
}

void check_patch(const AutoencoderKLConfig& config, const std::string& file) {
  if (config.patch_size.size() != 2) {
    fail(ErrorCode::kInvalidData, file, ": the field patch_size has ", config.patch_size.size(),
         " entries, not 2");
  }
  for (const int64_t side : config.patch_size) check_range(file, "patch_size", side, 1, kMaxPatch);
  if (config.patch_size[0] != config.patch_size[1]) {
    fail(ErrorCode::kUnsupported, file, ": the field patch_size is ",
         shape_string(config.patch_size), "; only square patches are implemented");
  }
  if (!config.is_flux2() && config.patch_size[0] != 1) {
    fail(ErrorCode::kInvalidData, file, ": the field patch_size is ",
         shape_string(config.patch_size), ", but an AutoencoderKL has no patches");
  }
  check_factor(file, "batch_norm_eps", config.batch_norm_eps);
}

}  // namespace

int64_t AutoencoderKLConfig::spatial_factor() const {
  return (int64_t{1} << (block_out_channels.size() - 1)) * patch_size.at(0);
}

int64_t AutoencoderKLConfig::channels() const {
  return latent_channels * patch_size.at(0) * patch_size.at(1);
}

AutoencoderKLConfig AutoencoderKLConfig::from_json(std::string_view text, const std::string& file) {
  const Json json = parse_json(text, file);
  if (!json.is_object()) {
    fail(ErrorCode::kInvalidData, file, ": a config should be an object, not ", json_kind(json));
  }
  const Fields fields(json, file);
  std::string class_name = "AutoencoderKL";
  fields.read("_class_name", class_name);
  AutoencoderKLConfig config = defaults_of(class_name, file);
  fields.read("in_channels", config.in_channels);
  fields.read("out_channels", config.out_channels);
  fields.read("down_block_types", config.down_block_types);
  fields.read("up_block_types", config.up_block_types);
  fields.read("block_out_channels", config.block_out_channels);
  fields.read("layers_per_block", config.layers_per_block);
  fields.read("act_fn", config.act_fn);
  fields.read("latent_channels", config.latent_channels);
  fields.read("norm_num_groups", config.norm_num_groups);
  fields.read_size("sample_size", config.sample_size);
  fields.read("use_quant_conv", config.use_quant_conv);
  fields.read("use_post_quant_conv", config.use_post_quant_conv);
  fields.read("mid_block_add_attention", config.mid_block_add_attention);
  if (config.is_flux2()) {
    fields.read_optional("decoder_block_out_channels", config.decoder_block_out_channels);
    fields.read("patch_size", config.patch_size);
    fields.read("batch_norm_eps", config.batch_norm_eps);
  } else {
    fields.read("scaling_factor", config.scaling_factor);
    fields.read("shift_factor", config.shift_factor);
    fields.read_optional("latents_mean", config.latents_mean);
    fields.read_optional("latents_std", config.latents_std);
    fields.read("force_upcast", config.force_upcast);
  }
  if (config.act_fn == "swish") config.act_fn = "silu";  // two names of one function
  config.validate(file);
  return config;
}

std::string AutoencoderKLConfig::to_json() const {
  Json json = {
      {"_class_name", class_name},
      {"act_fn", act_fn},
      {"block_out_channels", block_out_channels},
      {"down_block_types", down_block_types},
      {"in_channels", in_channels},
      {"latent_channels", latent_channels},
      {"layers_per_block", layers_per_block},
      {"mid_block_add_attention", mid_block_add_attention},
      {"norm_num_groups", norm_num_groups},
      {"out_channels", out_channels},
      {"sample_size", sample_size},
      {"up_block_types", up_block_types},
      {"use_post_quant_conv", use_post_quant_conv},
      {"use_quant_conv", use_quant_conv},
  };
  const auto or_null = [](const auto& list) { return list.empty() ? Json() : Json(list); };
  if (is_flux2()) {
    json["batch_norm_eps"] = batch_norm_eps;
    json["decoder_block_out_channels"] = or_null(decoder_block_out_channels);
    json["patch_size"] = patch_size;
  } else {
    json["force_upcast"] = force_upcast;
    json["latents_mean"] = or_null(latents_mean);
    json["latents_std"] = or_null(latents_std);
    json["scaling_factor"] = scaling_factor;
    json["shift_factor"] = shift_factor ? Json(*shift_factor) : Json();
  }
  return json.dump(2) + "\n";
}

void AutoencoderKLConfig::validate(const std::string& file) const {
  if (class_name != "AutoencoderKL" && class_name != "AutoencoderKLFlux2") {
    fail(ErrorCode::kUnsupported, file, ": the class ", class_name, " is not implemented");
  }
  if (act_fn != "silu") {
    fail(ErrorCode::kUnsupported, file, ": the activation ", json_kind(Json(act_fn)),
         " is not implemented; only silu (swish) is");
  }
  const size_t levels = block_out_channels.size();
  check_range(file, "block_out_channels (its length)", static_cast<int64_t>(levels), 1, kMaxLevels);
  check_range(file, "in_channels", in_channels, 1, kMaxChannels);
  check_range(file, "out_channels", out_channels, 1, kMaxChannels);
  check_range(file, "latent_channels", latent_channels, 1, kMaxChannels);
  check_range(file, "layers_per_block", layers_per_block, 1, kMaxLayers);
  check_range(file, "norm_num_groups", norm_num_groups, 1, kMaxChannels);
  check_range(file, "sample_size", sample_size, 1, kMaxSampleSize);
  check_types(file, "down_block_types", down_block_types, kDownBlock, levels);
  check_types(file, "up_block_types", up_block_types, kUpBlock, levels);
  check_widths(file, "block_out_channels", block_out_channels, norm_num_groups);
  check_widths(file, "decoder_block_out_channels", decoder_block_out_channels, norm_num_groups);
  if (!decoder_block_out_channels.empty() && decoder_block_out_channels.size() != levels) {
    fail(ErrorCode::kInvalidData, file, ": decoder_block_out_channels has ",
         decoder_block_out_channels.size(), " entries, but block_out_channels has ", levels);
  }
  check_latent_statistics(*this, file);
  check_patch(*this, file);
}

}  // namespace calotype
