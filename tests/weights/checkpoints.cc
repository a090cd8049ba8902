#include "weights/checkpoints.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "calotype/autoencoder_kl.h"

namespace calotype::test {
namespace {

class LdmBuilder {
 public:
  explicit LdmBuilder(const LdmOptions& options) : options_(options) {}

  void conv(const std::string& name, int64_t in, int64_t out, int64_t kernel) {
    add(name + ".weight", {out, in, kernel, kernel});
    add(name + ".bias", {out});
  }
  void norm(const std::string& name, int64_t channels) {
    add(name + ".weight", {channels});
    add(name + ".bias", {channels});
  }
  void resnet(const std::string& name, int64_t in, int64_t out) {
    norm(name + ".norm1", in);
    conv(name + ".conv1", in, out, 3);
    norm(name + ".norm2", out);
    conv(name + ".conv2", out, out, 3);
    if (in != out) conv(name + ".nin_shortcut", in, out, 1);
  }
  void mid(const std::string& half, int64_t channels) {
    resnet(half + ".mid.block_1", channels, channels);
    norm(half + ".mid.attn_1.norm", channels);
    for (const char* part : {"q", "k", "v", "proj_out"}) {
      conv(half + ".mid.attn_1." + part, channels, channels, 1);
    }
    resnet(half + ".mid.block_2", channels, channels);
  }
  void encoder() {
    const std::vector<int64_t>& widths = options_.widths;
    conv("encoder.conv_in", 3, widths[0], 3);
    int64_t in = widths[0];
    for (size_t level = 0; level < widths.size(); level++) {
      const std::string down = "encoder.down." + std::to_string(level);
      for (int block = 0; block < 2; block++) {
        resnet(down + ".block." + std::to_string(block), in, widths[level]);
        in = widths[level];
      }
      if (level + 1 != widths.size()) conv(down + ".downsample.conv", in, in, 3);
    }
    mid("encoder", in);
    norm("encoder.norm_out", in);
    conv("encoder.conv_out", in, 2 * options_.latent_channels, 3);
  }
  void decoder() {
    const std::vector<int64_t>& widths =
        options_.decoder_widths.empty() ? options_.widths : options_.decoder_widths;
    int64_t in = widths.back();
    conv("decoder.conv_in", options_.latent_channels, in, 3);
    mid("decoder", in);
    for (size_t level = widths.size(); level-- > 0;) {
      const std::string up = "decoder.up." + std::to_string(level);
      for (int block = 0; block < 3; block++) {
        resnet(up + ".block." + std::to_string(block), in, widths[level]);
        in = widths[level];
      }
      if (level != 0) conv(up + ".upsample.conv", in, in, 3);
    }
    norm("decoder.norm_out", in);
    conv("decoder.conv_out", in, 3, 3);
  }
  void add(const std::string& name, Shape shape) {
    tensors.push_back({options_.prefix + name, std::move(shape), options_.dtype});
  }

  std::vector<Declared> tensors;

 private:
  const LdmOptions& options_;
};

void replace(std::string& text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  if (at != std::string::npos) text.replace(at, from.size(), to);
}

}  // namespace

std::vector<Declared> ldm_tensors(const LdmOptions& options) {
  LdmBuilder builder(options);
  builder.encoder();
  builder.decoder();
  const int64_t z = options.latent_channels;
  if (options.quant_convs) {
    builder.conv(options.flux2 ? "encoder.quant_conv" : "quant_conv", 2 * z, 2 * z, 1);
    builder.conv(options.flux2 ? "decoder.post_quant_conv" : "post_quant_conv", z, z, 1);
  }
  if (options.flux2) {
    builder.add("bn.running_mean", {4 * z});
    builder.add("bn.running_var", {4 * z});
    builder.tensors.push_back({options.prefix + "bn.num_batches_tracked", {}, DType::kI64});
  }
  return builder.tensors;
}

std::vector<Declared> diffusers_tensors(const AutoencoderKLConfig& config, bool old_attention) {
  std::vector<Declared> tensors;
  for (const auto& [name, shape] : network_tensors(config)) {
    Declared tensor{name, shape};
    if (old_attention) {
      replace(tensor.name, "to_q", "query");
      replace(tensor.name, "to_k", "key");
      replace(tensor.name, "to_v", "value");
      replace(tensor.name, "to_out.0", "proj_attn");
    }
    tensors.push_back(tensor);
  }
  return tensors;
}

void write_sparse(const std::string& path, const std::vector<Declared>& tensors,
                  const std::map<std::string, std::string>& metadata) {
  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const Declared& tensor : tensors) {
    const int64_t end = offset + byte_count(tensor.dtype, tensor.shape);
    header[tensor.name] = {{"dtype", dtype_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, end}}};
    offset = end;
  }
  const std::vector<std::byte> head = safetensors_of(header.dump(), 0);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(head.data()), static_cast<std::streamsize>(head.size()));
  std::filesystem::resize_file(path, head.size() + static_cast<uintmax_t>(offset));
}

std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

std::string bytes_of(const TensorView& view) {
  return {reinterpret_cast<const char*>(view.data),
          static_cast<size_t>(byte_count(view.dtype, view.shape))};
}

std::vector<std::byte> safetensors_of(std::string_view header, size_t data) {
  std::vector<std::byte> bytes(8 + header.size() + data);
  const uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, sizeof length);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

AutoencoderKLConfig small_config() {
  AutoencoderKLConfig config = family_config("sd1");
  config.block_out_channels = {32, 64};
  config.down_block_types.resize(2);
  config.up_block_types.resize(2);
  config.layers_per_block = 1;
  return config;
}

Environment::Environment(std::string name, const std::string& value) : name_(std::move(name)) {
  if (const char* before = std::getenv(name_.c_str())) {
    was_set_ = true;
    before_ = before;
  }
  setenv(name_.c_str(), value.c_str(), 1);
}

Environment::~Environment() {
  if (was_set_) {
    setenv(name_.c_str(), before_.c_str(), 1);
  } else {
    unsetenv(name_.c_str());
  }
}

}  // namespace calotype::test
