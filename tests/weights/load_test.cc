// What a name stands for: paths, folders, the hub cache, the embedded model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "calotype/autoencoder_kl.h"
#include "calotype/model_source.h"
#include "core/file.h"
#include "core/sha256.h"
#include "support/random.h"
#include "weights/checkpoints.h"

namespace calotype {
namespace {

namespace fs = std::filesystem;
using test::Declared;
using test::refusal;
using ::testing::HasSubstr;

constexpr const char* kWeights = "diffusion_pytorch_model.safetensors";

class Load : public ::testing::Test {
 protected:
  // A diffusers folder of the small network.
  void write_vae(const std::string& folder, const std::string& weights = kWeights) {
    fs::create_directories(folder);
    write_file(folder + "/config.json", config_.to_json());
    test::write_sparse(folder + "/" + weights, test::diffusers_tensors(config_));
  }
  void expect_loads(const std::string& name, const std::string& container) {
    const Model model = load_model(name);
    EXPECT_EQ(model.config, config_);
    EXPECT_FALSE(model.config_inferred);
    EXPECT_EQ(model.container, container);
    EXPECT_EQ(model.tensors.size(), test::diffusers_tensors(config_).size());
  }

  // A config that no inference would give, so that a test sees which one was used.
  AutoencoderKLConfig config_ = [] {
    AutoencoderKLConfig config = test::small_config();
    config.scaling_factor = 0.75;
    config.norm_num_groups = 16;
    return config;
  }();
  const test::TemporaryFolder folder_;
  // Nothing of the machine that runs the tests is seen.
  const test::Environment hub_{"HF_HUB_CACHE", folder_.path("hub")};
  const test::Environment ollama_{"OLLAMA_MODELS", folder_.path("ollama")};
};

TEST_F(Load, the_embedded_model_needs_no_name) {
  Model model = load_model();
  EXPECT_EQ(model.container, "embedded");
  EXPECT_EQ(model.family, "custom");
  EXPECT_FALSE(model.config_inferred);
  const AutoencoderKL network(std::move(model));
  EXPECT_EQ(network.encoder_parameters() + network.decoder_parameters(), 4'126'691);
}

TEST_F(Load, the_embedded_model_is_the_one_of_the_repository) {
  const Model embedded = load_model(), files = load_model(CALOTYPE_MODELS "/mini");
  EXPECT_EQ(embedded.config, files.config);
  ASSERT_EQ(embedded.tensors.size(), files.tensors.size());
  for (const auto& [name, view] : embedded.tensors) {
    EXPECT_EQ(test::bytes_of(view), test::bytes_of(files.tensors.at(name))) << name;
  }
}

TEST_F(Load, a_diffusers_folder_and_its_parent) {
  write_vae(folder_.path("pipeline/vae"));
  expect_loads(folder_.path("pipeline/vae"), "diffusers");
  expect_loads(folder_.path("pipeline"), "diffusers");
  expect_loads(folder_.path("pipeline/"), "diffusers");
}

TEST_F(Load, a_folder_of_half_precision) {
  write_vae(folder_.path("vae"), "diffusion_pytorch_model.fp16.safetensors");
  expect_loads(folder_.path("vae"), "diffusers");
}

TEST_F(Load, the_weights_of_a_folder_by_their_own_path) {
  write_vae(folder_.path("vae"));
  expect_loads(folder_.path("vae/") + kWeights, "safetensors");
}

TEST_F(Load, a_folder_without_a_config_is_inferred) {
  fs::create_directories(folder_.path("vae"));
  test::write_sparse(folder_.path("vae/") + kWeights,
                     test::diffusers_tensors(family_config("flux")));
  const Model model = load_model(folder_.path("vae"));
  EXPECT_TRUE(model.config_inferred);
  EXPECT_EQ(model.family, "flux");
}

class Shards : public Load {
 protected:
  void SetUp() override {
    fs::create_directories(folder_.path("vae"));
    write_file(folder_.path("vae/config.json"), config_.to_json());
    std::vector<Declared> shards[2];
    size_t i = 0;
    for (const Declared& tensor : test::diffusers_tensors(config_)) {
      shards[i % 2].push_back(tensor);
      map_[tensor.name] = names_[i++ % 2];
    }
    for (size_t k = 0; k < 2; k++) test::write_sparse(folder_.path("vae/" + names_[k]), shards[k]);
    write_index();
  }
  void write_index() {
    const nlohmann::json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", map_}};
    write_file(folder_.path("vae/diffusion_pytorch_model.safetensors.index.json"), index.dump());
  }

  const std::string names_[2] = {"diffusion_pytorch_model-00001-of-00002.safetensors",
                                 "diffusion_pytorch_model-00002-of-00002.safetensors"};
  std::map<std::string, std::string> map_;
};

TEST_F(Shards, are_read_by_their_index) { expect_loads(folder_.path("vae"), "diffusers"); }

TEST_F(Shards, must_hold_what_the_index_says) {
  map_["decoder.extra.weight"] = names_[0];
  write_index();
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { load_model(folder_.path("vae")); }),
              HasSubstr("\"decoder.extra.weight\" is not in the file " + names_[0]));
}

TEST_F(Shards, must_be_there) {
  fs::remove(folder_.path("vae/" + names_[1]));
  EXPECT_THAT(refusal(ErrorCode::kNotFound, [&] { load_model(folder_.path("vae")); }),
              HasSubstr(names_[1]));
}

TEST_F(Shards, must_lie_beside_their_index) {
  for (const std::string name : {"../x.safetensors", "/etc/passwd", "", "..", "a/b"}) {
    map_.begin()->second = name;
    write_index();
    EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { load_model(folder_.path("vae")); }),
                HasSubstr("is not the name of a file beside it"))
        << name;
  }
}

TEST_F(Shards, need_a_weight_map) {
  const std::string index = folder_.path("vae/diffusion_pytorch_model.safetensors.index.json");
  write_file(index, std::string_view("{\"weight_map\": []}"));
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { load_model(folder_.path("vae")); }),
              HasSubstr("weight_map"));
  write_file(index, std::string_view("{\"weight_map\": {\"a\": 1}}"));
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { load_model(folder_.path("vae")); }),
              HasSubstr("the shard of \"a\""));
}

TEST_F(Load, a_folder_of_another_network_is_refused_by_its_class) {
  write_vae(folder_.path("unet"));
  write_file(folder_.path("unet/config.json"),
             std::string_view(R"({"_class_name": "UNet2DConditionModel"})"));
  EXPECT_THAT(refusal(ErrorCode::kUnsupported, [&] { load_model(folder_.path("unet")); }),
              HasSubstr("UNet2DConditionModel"));
}

TEST_F(Load, an_empty_folder_is_refused) {
  fs::create_directories(folder_.path("empty"));
  EXPECT_THAT(refusal(ErrorCode::kNotFound, [&] { load_model(folder_.path("empty")); }),
              HasSubstr("holds no autoencoder"));
}

TEST_F(Load, pickles_are_refused) {
  for (const char* name : {"model.bin", "model.ckpt", "model.pt", "model.pth"}) {
    write_file(folder_.path(name), std::string_view("whatever"));
    EXPECT_THAT(refusal(ErrorCode::kUnsupported, [&] { load_model(folder_.path(name)); }),
                HasSubstr("is a pickle file"));
  }
  write_file(folder_.path("zip"), std::string_view("PK\x03\x04...."));
  write_file(folder_.path("pickle"), std::string_view("\x80\x02}q"));
  for (const char* name : {"zip", "pickle"}) {
    EXPECT_THAT(refusal(ErrorCode::kUnsupported, [&] { load_model(folder_.path(name)); }),
                HasSubstr("is a pickle file"));
  }
  fs::create_directories(folder_.path("vae"));
  write_file(folder_.path("vae/diffusion_pytorch_model.bin"), std::string_view("x"));
  for (const char* name : {"vae", ""}) {
    EXPECT_THAT(refusal(ErrorCode::kUnsupported, [&] { load_model(folder_.path(name)); }),
                HasSubstr("diffusion_pytorch_model.bin: is a pickle file"));
  }
}

TEST_F(Load, files_are_told_by_content_not_by_suffix) {
  test::write_sparse(folder_.path("model.dat"), test::diffusers_tensors(config_),
                     {{"calotype.config", config_.to_json()}});
  expect_loads(folder_.path("model.dat"), "safetensors");
}

TEST_F(Load, other_files_are_refused) {
  write_file(folder_.path("picture.png"), std::string_view("\x89PNG\r\n\x1a\n and so on"));
  write_file(folder_.path("empty"), std::string_view(""));
  for (const char* name : {"picture.png", "empty"}) {
    EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { load_model(folder_.path(name)); }),
                HasSubstr("is neither a safetensors nor a GGUF file"));
  }
  write_file(folder_.path("x.safetensors"), std::string_view("short"));
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { load_model(folder_.path("x.safetensors")); }),
              HasSubstr("fewer than the 8"));
  write_file(folder_.path("x.gguf"), std::string_view("short"));
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [&] { load_model(folder_.path("x.gguf")); }),
              HasSubstr("is not a GGUF file"));
}

TEST_F(Load, what_is_not_there_is_not_found) {
  EXPECT_THAT(refusal(ErrorCode::kNotFound, [&] { load_model(folder_.path("no.safetensors")); }),
              HasSubstr("there is no such file or folder"));
  const std::string sentence =
      refusal(ErrorCode::kNotFound, [&] { load_model("no-such-model-anywhere"); });
  EXPECT_THAT(sentence, HasSubstr(folder_.path("hub")));
  EXPECT_THAT(sentence, HasSubstr(folder_.path("ollama")));
  for (const char* name : {"../../../etc/passwd-no", "a/../b", "..", "a//b", "a b", "a:b:c"}) {
    EXPECT_THROW(load_model(name), Error) << name;
  }
}

class Hub : public Load {
 protected:
  std::string snapshot(const std::string& repo, const std::string& commit) {
    return folder_.path("hub/models--" + repo + "/snapshots/" + commit);
  }
  void write_ref(const std::string& repo, const std::string& text) {
    fs::create_directories(folder_.path("hub/models--" + repo + "/refs"));
    write_file(folder_.path("hub/models--" + repo + "/refs/main"), std::string_view(text));
  }
};

TEST_F(Hub, a_repo_id_names_the_snapshot_of_refs_main) {
  write_vae(snapshot("org--name", "new") + "/vae");
  fs::create_directories(snapshot("org--name", "old") + "/vae");
  write_ref("org--name", "new");
  expect_loads("org/name", "diffusers");
}

TEST_F(Hub, the_vae_may_be_at_the_root) {
  write_vae(snapshot("org--vae", "abc"));
  expect_loads("org/vae", "diffusers");  // no refs/main: the only snapshot
}

TEST_F(Hub, the_ae_file_of_flux_is_found) {
  fs::create_directories(snapshot("org--flux", "abc"));
  test::write_sparse(snapshot("org--flux", "abc") + "/ae.safetensors",
                     test::ldm_tensors({.latent_channels = 16, .quant_convs = false}));
  EXPECT_EQ(load_model("org/flux").config, family_config("flux"));
}

TEST_F(Hub, the_one_file_at_the_root_that_holds_a_vae_is_found) {
  const std::string root = snapshot("org--sdxl", "abc");
  fs::create_directories(root);
  test::write_sparse(root + "/unet.safetensors", {{"conv_in.weight", {1}}});
  test::write_sparse(root + "/sdxl_vae.safetensors", test::ldm_tensors({}));
  EXPECT_EQ(load_model("org/sdxl").config, family_config("sd1"));
  EXPECT_EQ(list_models().back().name, "org/sdxl");
  test::write_sparse(root + "/full.safetensors",
                     test::ldm_tensors({.prefix = "first_stage_model."}));
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [] { load_model("org/sdxl"); }),
              HasSubstr("full.safetensors, sdxl_vae.safetensors; name one"));
  EXPECT_THAT(list_models().back().problem, HasSubstr("sdxl_vae.safetensors"));
}

TEST_F(Hub, a_broken_file_at_the_root_says_what_is_wrong_with_it) {
  fs::create_directories(snapshot("org--sdxl", "abc"));
  write_file(snapshot("org--sdxl", "abc") + "/sdxl_vae.safetensors", std::string_view("short"));
  EXPECT_THAT(refusal(ErrorCode::kInvalidData, [] { load_model("org/sdxl"); }),
              HasSubstr("fewer than the 8"));
}

TEST_F(Hub, a_language_model_in_one_file_is_not_listed) {
  const std::string root = snapshot("org--llm", "abc");
  fs::create_directories(root);
  test::write_sparse(root + "/model.safetensors", {{"decoder.block.0.weight", {1}}});
  EXPECT_EQ(list_models().back().name, "");
}

TEST_F(Hub, a_snapshot_with_a_vae_is_taken_before_one_of_refs_main_without) {
  fs::create_directories(snapshot("org--name", "main"));
  write_vae(snapshot("org--name", "other") + "/vae");
  write_ref("org--name", "main");
  expect_loads("org/name", "diffusers");
  EXPECT_EQ(list_models().back().name, "org/name");
}

TEST_F(Hub, the_cache_is_where_the_environment_says) {
  write_vae(folder_.path("home/hub/models--a--b/snapshots/c/vae"));
  const test::Environment unset("HF_HUB_CACHE", "");
  const test::Environment home("HF_HOME", folder_.path("home"));
  expect_loads("a/b", "diffusers");
}

TEST_F(Hub, blobs_are_compared_with_their_names_on_request) {
  write_vae(folder_.path("blobs"));
  const std::string file = folder_.path("blobs/") + kWeights;
  const std::string digest = sha256_hex(MappedFile::open(file)->bytes());
  for (const std::string& name : {digest, std::string(64, 'a')}) {
    const std::string vae = snapshot("org--name", name) + "/vae";
    fs::create_directories(vae);
    fs::copy_file(folder_.path("blobs/config.json"), vae + "/config.json");
    fs::copy_file(file, folder_.path("blobs/" + name));
    fs::create_symlink(folder_.path("blobs/" + name), vae + "/" + kWeights);
    write_ref("org--name", name);
    EXPECT_NO_THROW(load_model("org/name"));
    if (name == digest) {
      EXPECT_NO_THROW(load_model("org/name", {.verify = true}));
      continue;
    }
    EXPECT_THAT(refusal(ErrorCode::kInvalidData, [] { load_model("org/name", {.verify = true}); }),
                HasSubstr("has the digest sha256:" + digest));
  }
}

TEST_F(Hub, a_ref_cannot_lead_out_of_the_cache) {
  write_vae(folder_.path("outside"));
  fs::create_directories(folder_.path("hub/models--org--name/snapshots"));
  for (const std::string& ref :
       {std::string("../../../outside"), folder_.path("outside"), std::string("..")}) {
    write_ref("org--name", ref);
    EXPECT_THROW(load_model("org/name"), Error) << ref;
  }
}

TEST_F(Hub, a_repo_without_a_vae_says_so) {
  fs::create_directories(snapshot("org--llm", "abc"));
  EXPECT_THAT(refusal(ErrorCode::kNotFound, [&] { load_model("org/llm"); }),
              HasSubstr("holds no autoencoder"));
}

TEST_F(Hub, is_listed_where_there_is_a_vae) {
  write_vae(snapshot("org--name", "abc") + "/vae");
  fs::create_directories(snapshot("org--llm", "abc"));
  write_vae(snapshot("org--broken", "abc") + "/vae");
  write_file(snapshot("org--broken", "abc") + "/vae/config.json", std::string_view("{"));
  const std::vector<ModelEntry> entries = list_models();
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].container, "embedded");
  EXPECT_EQ(entries[0].bytes, 8'253'382);
  EXPECT_EQ(entries[1].name, "org/broken");
  EXPECT_THAT(entries[1].problem, HasSubstr("is not JSON"));
  EXPECT_EQ(entries[2].name, "org/name");
  EXPECT_EQ(entries[2].family, "custom");
  EXPECT_EQ(entries[2].problem, "");
}

}  // namespace
}  // namespace calotype
