#include "weights/ollama.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "calotype/autoencoder_kl.h"
#include "core/file.h"
#include "core/sha256.h"
#include "support/random.h"
#include "weights/checkpoints.h"

namespace calotype {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::refusal;
using ::testing::HasSubstr;

constexpr const char* kTensorType = "application/vnd.ollama.image.tensor";

// A store with one model, z-image, laid out by hand.
class Ollama : public ::testing::Test {
 protected:
  enum class Key { kFull, kBare, kData };

  void SetUp() override { lay_out(Key::kFull); }

  void lay_out(Key key) {
    fs::create_directories(folder_.path("blobs"));
    fs::create_directories(fs::path(manifest_path_).parent_path());
    manifest_ = {{"schemaVersion", 2},
                 {"mediaType", "application/vnd.docker.distribution.manifest.v2+json"},
                 {"config", add("application/vnd.docker.container.image.v1+json", "", "{}")},
                 {"layers", json::array()}};
    for (const auto& [name, view] : model_.tensors) {
      const std::string full = "vae/" + name;
      const std::string keyed = key == Key::kFull ? full : key == Key::kBare ? name : "data";
      const auto bytes = safetensors_bytes({}, {SafetensorsEntry::of(keyed, view)});
      manifest_["layers"].push_back(
          add(kTensorType, full, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
    }
    manifest_["layers"].push_back(
        add("application/vnd.ollama.image.json", "vae/config.json", model_.config.to_json()));
    // Layers of other parts, whose blobs are not needed.
    manifest_["layers"].push_back({{"mediaType", kTensorType},
                                   {"digest", "sha256:" + std::string(64, '0')},
                                   {"size", 5},
                                   {"name", "transformer/x.weight"}});
    write_manifest();
  }
  json add(const std::string& type, const std::string& name, const std::string& content) {
    const std::string hex = sha256_hex(std::as_bytes(std::span(content)));
    std::ofstream(folder_.path("blobs/sha256-" + hex), std::ios::binary) << content;
    return {
        {"mediaType", type}, {"digest", "sha256:" + hex}, {"size", content.size()}, {"name", name}};
  }
  void write_manifest() { write_file(manifest_path_, manifest_.dump()); }
  std::string blob_of(const json& layer) {
    return folder_.path("blobs/sha256-" + layer["digest"].get<std::string>().substr(7));
  }
  std::string load_refusal(ErrorCode code, const LoadOptions& options = {}) {
    write_manifest();
    return refusal(code, [&] { load_model("z-image", options); });
  }
  void expect_loads(const std::string& name) {
    const Model model = load_model(name, {.verify = true});
    EXPECT_EQ(model.container, "ollama");
    EXPECT_EQ(model.config, model_.config);
    ASSERT_EQ(model.tensors.size(), model_.tensors.size());
    for (const auto& [tensor, view] : model_.tensors) {
      EXPECT_EQ(test::bytes_of(model.tensors.at(tensor)), test::bytes_of(view));
    }
  }

  const Model model_ = random_model(test::small_config(), 1);
  const test::TemporaryFolder folder_;
  const test::Environment store_{"OLLAMA_MODELS", folder_.path()};
  const test::Environment hub_{"HF_HUB_CACHE", folder_.path("hub")};
  const std::string manifest_path_ =
      folder_.path("manifests/registry.ollama.ai/library/z-image/latest");
  json manifest_;
};

TEST_F(Ollama, a_name_finds_its_manifest) {
  expect_loads("z-image");
  expect_loads("z-image:latest");
  expect_loads("library/z-image");
  expect_loads("registry.ollama.ai/library/z-image:latest");
}

TEST_F(Ollama, names_of_other_spaces_and_hosts_are_found) {
  for (const char* path : {"registry.ollama.ai/ns/name/tag", "localhost:5000/ns/name/tag"}) {
    fs::create_directories(fs::path(folder_.path("manifests/") + path).parent_path());
    write_file(folder_.path("manifests/") + path, manifest_.dump());
  }
  expect_loads("ns/name:tag");
  expect_loads("localhost:5000/ns/name:tag");
}

TEST_F(Ollama, a_manifest_by_its_path_finds_the_store_around_it) {
  const test::Environment elsewhere("OLLAMA_MODELS", folder_.path("elsewhere"));
  expect_loads(manifest_path_);
}

TEST_F(Ollama, blobs_keyed_as_older_stores_do_are_read) {
  lay_out(Key::kData);
  expect_loads("z-image");
  lay_out(Key::kBare);
  expect_loads("z-image");
}

TEST_F(Ollama, a_manifest_without_a_config_is_inferred) {
  auto& layers = manifest_["layers"];
  layers.erase(layers.size() - 2);
  write_manifest();
  EXPECT_TRUE(load_model("z-image").config_inferred);
}

TEST_F(Ollama, a_missing_blob_is_refused_by_name) {
  const json layer = manifest_["layers"][0];
  fs::remove(blob_of(layer));
  const std::string sentence = load_refusal(ErrorCode::kNotFound);
  EXPECT_THAT(sentence, HasSubstr(layer["name"].get<std::string>()));
  EXPECT_THAT(sentence, HasSubstr("pull the model again"));
}

TEST_F(Ollama, a_blob_of_another_size_is_always_refused) {
  json& layer = manifest_["layers"][0];
  layer["size"] = layer["size"].get<int64_t>() + 1;
  EXPECT_THAT(load_refusal(ErrorCode::kInvalidData), HasSubstr("but the manifest says"));
  layer["size"] = layer["size"].get<int64_t>() - 1;
  fs::resize_file(blob_of(layer), 10);
  EXPECT_THAT(load_refusal(ErrorCode::kInvalidData), HasSubstr("has 10 bytes"));
}

TEST_F(Ollama, a_blob_of_another_digest_is_refused_on_request) {
  const json& layer = manifest_["layers"][0];
  std::string content = test::read_all(blob_of(layer));
  content.back() = static_cast<char>(content.back() ^ 1);
  write_file(blob_of(layer), std::string_view(content));
  EXPECT_NO_THROW(load_model("z-image"));
  EXPECT_THAT(load_refusal(ErrorCode::kInvalidData, {.verify = true}),
              HasSubstr("has the digest sha256:"));
}

TEST_F(Ollama, digests_that_are_no_sha_256_are_refused) {
  for (const std::string& digest :
       {std::string("sha256:../../../etc/passwd"), std::string("sha256:"), std::string(""),
        "sha256:" + std::string(64, 'g'), "sha256:" + std::string(63, 'a'),
        "md5:" + std::string(64, 'a'), "sha256:" + std::string(64, 'A')}) {
    manifest_["layers"][0]["digest"] = digest;
    EXPECT_THAT(load_refusal(ErrorCode::kInvalidData), HasSubstr("64 hexadecimal digits"));
  }
}

TEST_F(Ollama, layer_names_that_lead_elsewhere_are_refused) {
  for (const char* name : {"vae/../../x", "../vae/x", "/vae/x", "vae/.."}) {
    manifest_["layers"][0]["name"] = name;
    EXPECT_THAT(load_refusal(ErrorCode::kInvalidData), HasSubstr("leads out of the model"));
  }
}

TEST_F(Ollama, a_blob_of_another_tensor_is_refused) {
  manifest_["layers"][0]["digest"] = manifest_["layers"][1]["digest"];
  manifest_["layers"][0]["size"] = manifest_["layers"][1]["size"];
  EXPECT_THAT(load_refusal(ErrorCode::kInvalidData), HasSubstr("holds the tensor"));
}

TEST_F(Ollama, blobs_of_several_tensors_are_refused) {
  const TensorView view = model_.tensors.begin()->second;
  const auto bytes = safetensors_bytes(
      {}, {SafetensorsEntry::of("data", view), SafetensorsEntry::of("data.scale", view)});
  const std::string name = manifest_["layers"][0]["name"];
  manifest_["layers"][0] =
      add(kTensorType, name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  EXPECT_THAT(load_refusal(ErrorCode::kUnsupported), HasSubstr("holds 2 tensors"));
}

TEST_F(Ollama, a_model_without_an_autoencoder_says_so) {
  auto& layers = manifest_["layers"];
  layers.erase(layers.begin(), layers.end() - 1);
  EXPECT_THAT(load_refusal(ErrorCode::kInvalidData), HasSubstr("a model without an autoencoder"));
}

TEST_F(Ollama, manifests_that_are_none_are_refused) {
  const auto parse_refusal = [](std::string_view text) {
    return refusal(ErrorCode::kInvalidData, [&] { parse_ollama_manifest(text, "m"); });
  };
  EXPECT_THAT(parse_refusal("{"), HasSubstr("m: is not JSON"));
  EXPECT_THAT(parse_refusal("[]"), HasSubstr("no array \"layers\""));
  EXPECT_THAT(parse_refusal("{}"), HasSubstr("no array \"layers\""));
  EXPECT_THAT(parse_refusal(R"({"layers": {}})"), HasSubstr("no array \"layers\""));
  EXPECT_THAT(parse_refusal(R"({"layers": [3]})"), HasSubstr("layer 0 should be an object"));
  EXPECT_THAT(parse_refusal(R"({"layers": [{}]})"), HasSubstr("layer 0 has no \"mediaType\""));
  const std::string digest = "sha256:" + std::string(64, 'a');
  const auto with = [&](const std::string& size, const std::string& name) {
    return R"({"layers": [{"mediaType": "t", "digest": ")" + digest + R"(", "size": )" + size +
           R"(, "name": )" + name + "}]}";
  };
  EXPECT_THAT(parse_refusal(with("-1", "\"a\"")), HasSubstr("the size -1"));
  EXPECT_THAT(parse_refusal(with("\"1\"", "\"a\"")), HasSubstr("size should be a whole number"));
  EXPECT_THAT(parse_refusal(with("99999999999999999999", "\"a\"")),
              HasSubstr("size should be a whole number"));
  EXPECT_THAT(parse_refusal(with("1", "1")), HasSubstr("name should be a string"));
}

TEST_F(Ollama, two_layers_of_one_name_are_refused) {
  manifest_["layers"].push_back(manifest_["layers"][0]);
  EXPECT_THAT(load_refusal(ErrorCode::kInvalidData), HasSubstr("two layers named"));
}

TEST(OllamaNames, take_the_defaults_of_ollama) {
  const auto name = OllamaName::parse("z-image");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->manifest_path("/m"), "/m/manifests/registry.ollama.ai/library/z-image/latest");
  EXPECT_EQ(OllamaName::parse("ns/a:b")->manifest_path("/m"),
            "/m/manifests/registry.ollama.ai/ns/a/b");
  EXPECT_EQ(OllamaName::parse("h:1/ns/a:b")->manifest_path("/m"), "/m/manifests/h:1/ns/a/b");
}

TEST(OllamaNames, print_without_the_defaults) {
  for (const char* name : {"a", "a:b", "ns/a", "ns/a:b", "h:1/ns/a", "h/library/a:b"}) {
    EXPECT_EQ(OllamaName::parse(name)->short_form(), name);
  }
  EXPECT_EQ(OllamaName::parse("registry.ollama.ai/library/a:latest")->short_form(), "a");
}

TEST(OllamaNames, refuse_what_would_lead_elsewhere) {
  for (const char* name : {"", "..", "a/..", "../a", "a/../b", "a:..", "a/b/c/d", "/a", "a/",
                           "a//b", "a:", ":b", "a:b:c", "a b", "a\\b", "-a", ".a", "a..b", "~/a"}) {
    EXPECT_FALSE(OllamaName::parse(name)) << name;
  }
}

TEST_F(Ollama, is_listed_where_there_is_an_autoencoder) {
  fs::create_directories(folder_.path("manifests/registry.ollama.ai/library/llm"));
  write_file(folder_.path("manifests/registry.ollama.ai/library/llm/7b"),
             std::string_view(R"({"layers": []})"));
  fs::create_directories(folder_.path("manifests/registry.ollama.ai/ns/broken"));
  write_file(folder_.path("manifests/registry.ollama.ai/ns/broken/latest"), std::string_view("x"));
  const std::vector<ModelEntry> entries = list_models();
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[1].name, "ns/broken");
  EXPECT_THAT(entries[1].problem, HasSubstr("is not JSON"));
  EXPECT_EQ(entries[2].name, "z-image");
  EXPECT_EQ(entries[2].container, "ollama");
  EXPECT_EQ(entries[2].family, "custom");
  EXPECT_EQ(entries[2].path, manifest_path_);
  EXPECT_GT(entries[2].bytes, 0);
}

}  // namespace
}  // namespace calotype
