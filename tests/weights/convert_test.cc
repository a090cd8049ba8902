// A model written as each container and read back: the same bytes, the same config.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "calotype/autoencoder_kl.h"
#include "core/file.h"
#include "core/sha256.h"
#include "support/random.h"
#include "weights/checkpoints.h"
#include "weights/gguf.h"
#include "weights/json.h"
#include "weights/safetensors.h"

namespace calotype {
namespace {

namespace fs = std::filesystem;
using test::bytes_of;
using test::refusal;
using ::testing::HasSubstr;

AutoencoderKLConfig small_flux2() {
  AutoencoderKLConfig config = family_config("flux2");
  config.block_out_channels = {32, 64};
  config.decoder_block_out_channels = {32, 32};
  config.down_block_types.resize(2);
  config.up_block_types.resize(2);
  return config;
}

class Convert : public ::testing::TestWithParam<DType> {
 protected:
  static void expect_same(const Model& found, const Model& source) {
    EXPECT_EQ(found.config, source.config);
    EXPECT_FALSE(found.config_inferred);
    ASSERT_EQ(found.tensors.size(), source.tensors.size());
    for (const auto& [name, view] : source.tensors) {
      const TensorView& same = found.tensors.at(name);
      EXPECT_EQ(same.dtype, view.dtype) << name;
      EXPECT_EQ(same.shape, view.shape) << name;
      EXPECT_EQ(bytes_of(same), bytes_of(view)) << name;
    }
  }
  Model round_trip(const Model& model, const std::string& target, const ConvertOptions& options) {
    convert_model(model, target, options);
    return load_model(target, {.verify = true});
  }
  std::vector<Model> models() const {
    return {random_model(test::small_config(), 1, GetParam()),
            random_model(small_flux2(), 2, GetParam())};
  }

  const test::TemporaryFolder folder_;
  const test::Environment store_{"OLLAMA_MODELS", folder_.path("store")};
  const test::Environment hub_{"HF_HUB_CACHE", folder_.path("hub")};
};
INSTANTIATE_TEST_SUITE_P(DTypes, Convert, ::testing::Values(DType::kF32, DType::kF16, DType::kBF16),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

TEST(ConvertWide, weights_that_overflow_f16_are_refused_by_name) {
  const test::TemporaryFolder folder;
  Model model = random_model(test::small_config(), 1, DType::kF32);
  std::vector<float> weights(static_cast<size_t>(model.tensors.at("decoder.conv_in.bias").size()));
  weights.back() = 1e6f;
  model.tensors.at("decoder.conv_in.bias").data =
      reinterpret_cast<const std::byte*>(weights.data());
  for (const auto& [format, name] : {std::pair{ModelFormat::kSafetensors, "x.safetensors"},
                                     {ModelFormat::kGguf, "x.gguf"},
                                     {ModelFormat::kDiffusersFolder, "x"}}) {
    const std::string target = folder.path(name);
    EXPECT_THAT(
        refusal(ErrorCode::kInvalidData,
                [&] { convert_model(model, target, {.format = format, .dtype = DType::kF16}); }),
        HasSubstr("\"decoder.conv_in.bias\" holds 1e+06, which overflows f16; use bf16"));
    EXPECT_FALSE(fs::exists(target));
    convert_model(model, target, {.format = format, .dtype = DType::kBF16});
  }
}

TEST_P(Convert, a_diffusers_folder_keeps_every_byte) {
  int i = 0;
  for (const Model& model : models()) {
    const std::string folder = folder_.path("vae" + std::to_string(i++));
    expect_same(round_trip(model, folder, {.format = ModelFormat::kDiffusersFolder}), model);
  }
}

TEST_P(Convert, a_safetensors_file_keeps_every_byte) {
  for (const Model& model : models()) {
    for (const bool original : {false, true}) {
      const Model found =
          round_trip(model, folder_.path("x.safetensors"), {.original_keys = original});
      expect_same(found, model);
      EXPECT_EQ(found.keys, original ? "original" : "diffusers");
    }
  }
}

TEST_P(Convert, a_gguf_file_keeps_every_byte) {
  for (const Model& model : models()) {
    for (const bool original : {false, true}) {
      const Model found = round_trip(model, folder_.path("x.gguf"),
                                     {.format = ModelFormat::kGguf, .original_keys = original});
      expect_same(found, model);
      EXPECT_EQ(found.container, "gguf");
      EXPECT_EQ(found.keys, original ? "original" : "diffusers");
    }
  }
}

TEST_P(Convert, an_ollama_model_keeps_every_byte) {
  for (const Model& model : models()) {
    const ConvertOptions options{.format = ModelFormat::kOllama, .overwrite = true};
    expect_same(round_trip(model, "ns/mini:test", options), model);
  }
}

TEST_P(Convert, a_dtype_rounds_to_nearest) {
  const Model model = random_model(test::small_config(), 3, DType::kF32);
  const Model found = round_trip(model, folder_.path("x.safetensors"),
                                 {.original_keys = true, .dtype = GetParam()});
  for (const auto& [name, view] : model.tensors) {
    std::vector<float> values(static_cast<size_t>(view.size()));
    copy_elements(view, 0, values);
    std::string expected(static_cast<size_t>(byte_count(GetParam(), view.shape)), '\0');
    convert_elements(values, GetParam(), reinterpret_cast<std::byte*>(expected.data()));
    EXPECT_EQ(found.tensors.at(name).dtype, GetParam());
    EXPECT_EQ(bytes_of(found.tensors.at(name)), expected) << name;
  }
}

TEST_P(Convert, q8_0_keeps_weights_within_half_a_step) {
  const Model model = random_model(test::small_config(), 4, GetParam());
  const Model found = round_trip(model, folder_.path("x.gguf"),
                                 {.format = ModelFormat::kGguf, .dtype = DType::kQ8_0});
  int quantised = 0;
  for (const auto& [name, view] : model.tensors) {
    const TensorView& same = found.tensors.at(name);
    ASSERT_EQ(same.shape, view.shape) << name;
    if (same.dtype != DType::kQ8_0) {
      EXPECT_EQ(bytes_of(same), bytes_of(view)) << name;
      continue;
    }
    quantised++;
    std::vector<float> a(static_cast<size_t>(view.size())), b(a.size());
    copy_elements(view, 0, a);
    copy_elements(same, 0, b);
    for (size_t first = 0; first < a.size(); first += 32) {
      float largest = 0, error = 0;
      for (size_t i = first; i < first + 32; i++) {
        largest = std::max(largest, std::abs(a[i]));
        error = std::max(error, std::abs(a[i] - b[i]));
      }
      // Half a step of 1/127 of the largest, and the f16 rounding of the scale on 127 of them.
      ASSERT_LE(error, largest * (0.5f / 127 + 0x1p-11f)) << name;
    }
  }
  EXPECT_GT(quantised, 20);
}

class ConvertFiles : public Convert {};
INSTANTIATE_TEST_SUITE_P(One, ConvertFiles, ::testing::Values(DType::kBF16));

TEST_P(ConvertFiles, original_keys_are_those_of_the_original_code) {
  for (const Model& model :
       {random_model(family_config("sd1"), 1), random_model(family_config("flux2"), 1)}) {
    convert_model(model, folder_.path("x.safetensors"), {.original_keys = true});
    const auto mapped = MappedFile::open(folder_.path("x.safetensors"));
    std::map<std::string, Shape> found, expected;
    for (const auto& [name, view] : parse_safetensors(mapped->bytes(), "x").tensors) {
      found[name] = view.shape;
    }
    const bool flux2 = model.config.is_flux2();
    for (const test::Declared& tensor :
         test::ldm_tensors({.latent_channels = flux2 ? 32 : 4, .flux2 = flux2})) {
      expected[tensor.name] = tensor.shape;
    }
    EXPECT_EQ(found, expected);
  }
}

TEST_P(ConvertFiles, a_flux_2_folder_has_the_counter_that_diffusers_asks_for) {
  convert_model(models()[1], folder_.path("vae"), {.format = ModelFormat::kDiffusersFolder});
  const auto mapped = MappedFile::open(folder_.path("vae/diffusion_pytorch_model.safetensors"));
  const SafetensorsFile file = parse_safetensors(mapped->bytes(), "x");
  EXPECT_EQ(file.tensors.at("bn.num_batches_tracked").dtype, DType::kI64);
  EXPECT_EQ(file.metadata.at("format"), "pt");
}

TEST_P(ConvertFiles, an_existing_model_is_kept_unless_told_otherwise) {
  const Model model = models()[0], other = random_model(test::small_config(), 9);
  const ConvertOptions folder{.format = ModelFormat::kDiffusersFolder};
  const ConvertOptions ollama{.format = ModelFormat::kOllama};
  for (const auto& [target, options] :
       {std::pair(folder_.path("vae"), folder), std::pair(std::string("mini"), ollama)}) {
    convert_model(model, target, options);
    EXPECT_THAT(refusal(ErrorCode::kIo, [&] { convert_model(other, target, options); }),
                HasSubstr("already"));
    expect_same(load_model(target), model);
    ConvertOptions overwrite = options;
    overwrite.overwrite = true;
    convert_model(other, target, overwrite);
    expect_same(load_model(target), other);
  }
}

class Overwritten : public Convert {
 protected:
  void put(const std::string& name, std::string_view text) {
    fs::create_directories(fs::path(folder_.path(name)).parent_path());
    write_file(folder_.path(name), text);
  }
  std::set<std::string> names() const {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder_.path("vae"))) {
      found.insert(entry.path().filename().string());
    }
    return found;
  }
};
INSTANTIATE_TEST_SUITE_P(One, Overwritten, ::testing::Values(DType::kBF16));

TEST_P(Overwritten, folders_keep_nothing_of_the_old_weights) {
  const ConvertOptions options{.format = ModelFormat::kDiffusersFolder, .overwrite = true};
  const Model model = models()[0];
  put("outside.safetensors", "not ours");
  put("vae/README.md", "not ours");
  put("vae/notes.txt", "not ours");
  put("vae/diffusion_pytorch_model.safetensors.index.json",
      R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "notes.txt",
          "d": "../outside.safetensors", "e": "config.json", "f": "..", "g": 3,
          "h": "diffusion_pytorch_model.safetensors"}})");
  put("vae/diffusion_pytorch_model.fp16.safetensors.index.json", "{");
  put("vae/diffusion_pytorch_model.bin.index.json", R"({"weight_map": {"a": "three.bin"}})");
  for (const char* name : {"one.safetensors", "two.safetensors", "three.bin",
                           "diffusion_pytorch_model.fp16.safetensors",
                           "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin"}) {
    put(std::string("vae/") + name, "old");
  }
  fs::create_symlink("gone",
                     folder_.path("vae/diffusion_pytorch_model.safetensors.index.fp16.json"));
  convert_model(model, folder_.path("vae"), options);
  EXPECT_EQ(names(), (std::set<std::string>{"README.md", "notes.txt", "config.json",
                                            "diffusion_pytorch_model.safetensors"}));
  EXPECT_TRUE(fs::exists(folder_.path("outside.safetensors")));
  expect_same(load_model(folder_.path("vae")), model);
}

TEST_P(Overwritten, folders_of_any_kind_of_weights_are_kept_unless_told_otherwise) {
  for (const char* name :
       {"diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin", "config.json"}) {
    fs::remove_all(folder_.path("vae"));
    put(std::string("vae/") + name, "{}");
    EXPECT_THAT(refusal(ErrorCode::kIo,
                        [&] {
                          convert_model(models()[0], folder_.path("vae"),
                                        {.format = ModelFormat::kDiffusersFolder});
                        }),
                HasSubstr("holds a model already"));
    EXPECT_EQ(names(), std::set<std::string>{name});
  }
}

TEST_P(Overwritten, a_pipelines_folder_is_refused_for_its_vae) {
  put("pipe/vae/diffusion_pytorch_model.safetensors.index.json", "{}");
  EXPECT_THAT(refusal(ErrorCode::kInvalidArgument,
                      [&] {
                        convert_model(models()[0], folder_.path("pipe"),
                                      {.format = ModelFormat::kDiffusersFolder, .overwrite = true});
                      }),
              HasSubstr(folder_.path("pipe/vae")));
  EXPECT_FALSE(fs::exists(folder_.path("pipe/config.json")));
}

TEST_P(ConvertFiles, a_cancelled_conversion_leaves_nothing_behind) {
  const ConvertOptions formats[] = {
      {.format = ModelFormat::kDiffusersFolder, .progress = [](double) { return false; }},
      {.format = ModelFormat::kSafetensors, .progress = [](double) { return false; }},
      {.format = ModelFormat::kGguf, .progress = [](double) { return false; }}};
  for (const ConvertOptions& options : formats) {
    refusal(ErrorCode::kCancelled, [&] { convert_model(models()[0], folder_.path("x"), options); });
    EXPECT_TRUE(fs::is_empty(folder_.path()));
  }
}

TEST_P(ConvertFiles, progress_rises_to_one) {
  const Model model = models()[0];
  for (const ModelFormat format : {ModelFormat::kDiffusersFolder, ModelFormat::kSafetensors,
                                   ModelFormat::kGguf, ModelFormat::kOllama}) {
    double last = 0;
    const std::string target = "p" + std::to_string(static_cast<int>(format));
    convert_model(model, format == ModelFormat::kOllama ? target : folder_.path(target),
                  {.format = format, .progress = [&](double fraction) {
                     EXPECT_GE(fraction, last);
                     last = fraction;
                     return true;
                   }});
    EXPECT_EQ(last, 1.0);
  }
}

TEST_P(ConvertFiles, what_a_container_cannot_hold_is_refused) {
  const Model model = models()[0];
  const std::string target = folder_.path("x");
  const auto convert = [&](const Model& source, const ConvertOptions& options) {
    return [&source, &target, options] { convert_model(source, target, options); };
  };
  EXPECT_THAT(refusal(ErrorCode::kInvalidArgument, convert(model, {.dtype = DType::kQ8_0})),
              HasSubstr("not to Q8_0"));
  EXPECT_THAT(refusal(ErrorCode::kInvalidArgument, convert(model, {.dtype = DType::kI8})),
              HasSubstr("not to I8"));
  EXPECT_THAT(
      refusal(ErrorCode::kInvalidArgument,
              convert(model, {.format = ModelFormat::kDiffusersFolder, .original_keys = true})),
      HasSubstr("original names"));
  const Model fp8 = random_model(test::small_config(), 1, DType::kF8E4M3);
  EXPECT_THAT(refusal(ErrorCode::kUnsupported, convert(fp8, {.format = ModelFormat::kGguf})),
              HasSubstr("the dtype F8_E4M3, which GGUF does not have"));
  EXPECT_THAT(refusal(ErrorCode::kInvalidArgument,
                      [&] { convert_model(model, "../x", {.format = ModelFormat::kOllama}); }),
              HasSubstr("no Ollama name"));
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_P(ConvertFiles, no_dtype_changes_what_defines_the_latents) {
  for (const DType source : {DType::kF32, DType::kF8E4M3}) {
    const Model model = random_model(small_flux2(), 5, source);
    const std::string hash = AutoencoderKL(model).latent_space_hash();
    for (const ModelFormat format : {ModelFormat::kSafetensors, ModelFormat::kGguf}) {
      const Model found =
          round_trip(model, folder_.path("x"), {.format = format, .dtype = DType::kBF16});
      EXPECT_EQ(found.tensors.at("decoder.conv_in.weight").dtype, DType::kBF16);
      EXPECT_EQ(AutoencoderKL(found).latent_space_hash(), hash);
    }
  }
}

TEST_P(ConvertFiles, fp8_weights_survive_safetensors) {
  const Model model = random_model(test::small_config(), 1, DType::kF8E5M2);
  expect_same(round_trip(model, folder_.path("x.safetensors"), {}), model);
}

TEST_P(ConvertFiles, a_damaged_ollama_blob_is_written_again) {
  const ConvertOptions options{.format = ModelFormat::kOllama, .overwrite = true};
  const Model model = models()[0];
  convert_model(model, "mini", options);
  std::string damaged;
  for (const auto& entry : fs::directory_iterator(folder_.path("store/blobs"))) {
    damaged = entry.path().string();
    std::string content = test::read_all(damaged);
    content.back() = static_cast<char>(content.back() ^ 1);
    write_file(damaged, std::string_view(content));
  }
  ASSERT_NE(damaged, "");
  expect_same(round_trip(model, "mini", options), model);
}

TEST_P(ConvertFiles, ollama_blobs_are_named_by_their_content) {
  convert_model(models()[0], "mini", {.format = ModelFormat::kOllama});
  const std::string manifest =
      folder_.path("store/manifests/registry.ollama.ai/library/mini/latest");
  const Json json = parse_json(test::read_all(manifest), manifest);
  EXPECT_EQ(json["schemaVersion"], 2);
  EXPECT_EQ(json["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
  std::set<std::string> names;
  for (const Json& layer : json["layers"]) {
    const std::string hex = layer["digest"].get<std::string>().substr(7);
    const auto mapped = MappedFile::open(folder_.path("store/blobs/sha256-" + hex));
    EXPECT_EQ(sha256_hex(mapped->bytes()), hex);
    EXPECT_EQ(layer["size"], mapped->bytes().size());
    names.insert(layer["name"].get<std::string>());
  }
  EXPECT_TRUE(names.contains("vae/config.json"));
  EXPECT_TRUE(names.contains("vae/decoder.conv_in.weight"));
  EXPECT_TRUE(names.contains("model_index.json"));
}

}  // namespace
}  // namespace calotype
