// What calotype.h promises beyond what tests/capi/c99.c calls.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "calotype/calotype.h"

namespace calotype {
namespace {

using testing::HasSubstr;

struct Free {
  void operator()(calotype_model* model) const { calotype_free(model); }
};
using ModelHandle = std::unique_ptr<calotype_model, Free>;

ModelHandle embedded() {
  calotype_model* model = nullptr;
  EXPECT_EQ(calotype_load("", nullptr, &model), CALOTYPE_OK) << calotype_last_error();
  return ModelHandle(model);
}

constexpr calotype_shape kLatents = {2, 3, 2, 16};
constexpr calotype_shape kPictures = {2, 24, 16, 3};
constexpr size_t kLatentCount = 2 * 3 * 2 * 16, kPictureCount = 2 * 24 * 16 * 3;

std::vector<float> some_latents() {
  std::vector<float> latents(kLatentCount);
  for (size_t i = 0; i < latents.size(); i++) latents[i] = static_cast<float>(i % 13) / 6 - 1;
  return latents;
}

TEST(CApi, decodes_what_the_cpp_interface_decodes) {
  const ModelHandle model = embedded();
  const std::vector<float> latents = some_latents();
  std::vector<float> image(kPictureCount);
  calotype_run_options options = calotype_run_options_defaults();
  options.latent_layout = CALOTYPE_NHWC;
  ASSERT_EQ(
      calotype_decode(model.get(), latents.data(), &kLatents, image.data(), image.size(), &options),
      CALOTYPE_OK)
      << calotype_last_error();
  const AutoencoderKL vae = AutoencoderKL::load();
  const Tensor expected = vae.decode(Tensor({2, 3, 2, 16}, latents));
  EXPECT_TRUE(std::equal(image.begin(), image.end(), expected.data()));
}

TEST(CApi, layouts_are_transposes_of_each_other) {
  const ModelHandle model = embedded();
  const std::vector<float> latents = some_latents();
  std::vector<float> nhwc(kPictureCount), nchw(kPictureCount);
  calotype_run_options options = calotype_run_options_defaults();
  ASSERT_EQ(
      calotype_decode(model.get(), latents.data(), &kLatents, nhwc.data(), nhwc.size(), &options),
      CALOTYPE_OK);
  options.image_layout = CALOTYPE_NCHW;
  options.latent_layout = CALOTYPE_NHWC;
  const Tensor transposed = nchw_to_nhwc(Tensor({2, 16, 3, 2}, latents));
  ASSERT_EQ(calotype_decode(model.get(), transposed.data(), &kLatents, nchw.data(), nchw.size(),
                            &options),
            CALOTYPE_OK);
  EXPECT_THAT(nhwc_to_nchw(Tensor({2, 24, 16, 3}, nhwc)).values(), testing::ElementsAreArray(nchw));
}

TEST(CApi, unscaled_latents_are_the_decoders_own) {
  const ModelHandle model = embedded();
  const std::vector<float> latents = some_latents();
  std::vector<float> image(kPictureCount);
  calotype_run_options options = calotype_run_options_defaults();
  options.latent_layout = CALOTYPE_NHWC;
  options.unscaled = 1;
  ASSERT_EQ(
      calotype_decode(model.get(), latents.data(), &kLatents, image.data(), image.size(), &options),
      CALOTYPE_OK);
  const Tensor expected = AutoencoderKL::load().decode_z(Tensor({2, 3, 2, 16}, latents));
  EXPECT_TRUE(std::equal(image.begin(), image.end(), expected.data()));
}

TEST(CApi, pictures_of_any_size_are_padded_for_encoding) {
  const ModelHandle model = embedded();
  const calotype_shape odd = {1, 13, 9, 3};
  calotype_shape latents_shape;
  ASSERT_EQ(calotype_latents_shape(model.get(), &odd, nullptr, &latents_shape), CALOTYPE_OK);
  EXPECT_EQ(latents_shape.height, 2);
  EXPECT_EQ(latents_shape.width, 2);
  const std::vector<float> image(13 * 9 * 3, 0.25f), whole(16 * 16 * 3, 0.25f);
  std::vector<float> latents(64), expected(64);
  ASSERT_EQ(calotype_encode(model.get(), image.data(), &odd, latents.data(), 64, nullptr),
            CALOTYPE_OK);
  const calotype_shape full = {1, 16, 16, 3};
  ASSERT_EQ(calotype_encode(model.get(), whole.data(), &full, expected.data(), 64, nullptr),
            CALOTYPE_OK);
  EXPECT_EQ(latents, expected);
}

TEST(CApi, a_cancelled_job_leaves_the_buffer_alone) {
  const ModelHandle model = embedded();
  const std::vector<float> latents = some_latents();
  std::vector<uint8_t> image(kPictureCount, 77);
  calotype_run_options options = calotype_run_options_defaults();
  options.progress = [](double, const char*, void*) { return 1; };
  EXPECT_EQ(calotype_decode_u8(model.get(), latents.data(), &kLatents, image.data(), image.size(),
                               &options),
            CALOTYPE_CANCELLED);
  EXPECT_THAT(image, testing::Each(77));
}

TEST(CApi, tensors_in_memory_make_the_model_that_files_make) {
  const AutoencoderKL vae = AutoencoderKL::load();
  std::vector<calotype_tensor> tensors;
  for (const auto& [name, view] : vae.model().tensors) {
    tensors.push_back({name.c_str(), dtype_name(view.dtype).data(),
                       static_cast<int32_t>(view.shape.size()), view.shape.data(), view.data});
  }
  calotype_model* handle = nullptr;
  ASSERT_EQ(calotype_load_tensors(vae.config().to_json().c_str(), tensors.data(), tensors.size(),
                                  nullptr, &handle),
            CALOTYPE_OK)
      << calotype_last_error();
  const ModelHandle model(handle), file = embedded();
  const std::vector<float> latents = some_latents();
  std::vector<float> a(kPictureCount), b(kPictureCount);
  ASSERT_EQ(calotype_decode(model.get(), latents.data(), &kLatents, a.data(), a.size(), nullptr),
            CALOTYPE_OK);
  ASSERT_EQ(calotype_decode(file.get(), latents.data(), &kLatents, b.data(), b.size(), nullptr),
            CALOTYPE_OK);
  EXPECT_EQ(a, b);
  tensors.push_back(tensors.front());
  EXPECT_EQ(calotype_load_tensors(nullptr, tensors.data(), tensors.size(), nullptr, &handle),
            CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(handle, nullptr);
}

// A struct of a later header, with a field more.
struct LaterOptions {
  calotype_run_options known;
  int64_t field;
};

TEST(CApi, structs_of_older_and_newer_headers_are_understood) {
  const ModelHandle model = embedded();
  calotype_shape image;
  LaterOptions later = {calotype_run_options_defaults(), 0};
  later.known.struct_size = sizeof later;
  EXPECT_EQ(calotype_image_shape(model.get(), &kLatents, &later.known, &image), CALOTYPE_OK);
  later.field = 1;
  EXPECT_EQ(calotype_image_shape(model.get(), &kLatents, &later.known, &image),
            CALOTYPE_UNSUPPORTED);
  EXPECT_THAT(calotype_last_error(), HasSubstr("newer"));

  calotype_run_options older = calotype_run_options_defaults();
  older.struct_size = offsetof(calotype_run_options, threads);
  older.threads = -5;  // beyond what an older caller has
  EXPECT_EQ(calotype_image_shape(model.get(), &kLatents, &older, &image), CALOTYPE_OK);
  older.struct_size = 0;
  EXPECT_EQ(calotype_image_shape(model.get(), &kLatents, &older, &image),
            CALOTYPE_INVALID_ARGUMENT);

  calotype_info info = calotype_info_defaults();
  info.struct_size = offsetof(calotype_info, channels);
  info.channels = -1;
  EXPECT_EQ(calotype_get_info(model.get(), &info), CALOTYPE_OK);
  EXPECT_EQ(info.channels, -1) << "a field that the caller's header lacks was written";
}

TEST(CApi, null_pointers_are_refused_by_name) {
  const ModelHandle model = embedded();
  const std::vector<float> latents = some_latents();
  std::vector<float> image(kPictureCount);
  calotype_shape shape;
  EXPECT_EQ(calotype_load(nullptr, nullptr, nullptr), CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(
      calotype_decode(nullptr, latents.data(), &kLatents, image.data(), image.size(), nullptr),
      CALOTYPE_INVALID_ARGUMENT);
  EXPECT_STREQ(calotype_last_error(), "the model is NULL");
  EXPECT_EQ(calotype_decode(model.get(), nullptr, &kLatents, image.data(), image.size(), nullptr),
            CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(
      calotype_decode(model.get(), latents.data(), nullptr, image.data(), image.size(), nullptr),
      CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(calotype_decode(model.get(), latents.data(), &kLatents, nullptr, image.size(), nullptr),
            CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(
      calotype_encode_u8(model.get(), nullptr, &kPictures, image.data(), kLatentCount, nullptr),
      CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(calotype_image_shape(model.get(), &kLatents, nullptr, nullptr),
            CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(calotype_get_info(model.get(), nullptr), CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(calotype_list_models(nullptr, nullptr), CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(calotype_write_image(nullptr, nullptr, nullptr, 0), CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(calotype_read_latents(model.get(), nullptr, nullptr, &shape),
            CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(calotype_load_tensors(nullptr, nullptr, 1, nullptr, nullptr),
            CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(calotype_config_json(nullptr), nullptr);
}

TEST(CApi, wrong_shapes_and_sizes_are_refused) {
  const ModelHandle model = embedded();
  const std::vector<float> latents = some_latents();
  std::vector<float> image(kPictureCount);
  const auto decode = [&](calotype_shape shape, size_t count) {
    return calotype_decode(model.get(), latents.data(), &shape, image.data(), count, nullptr);
  };
  EXPECT_EQ(decode(kLatents, kPictureCount - 1), CALOTYPE_INVALID_ARGUMENT);
  EXPECT_THAT(calotype_last_error(), HasSubstr("2304"));
  EXPECT_EQ(decode({2, 3, 2, 4}, kPictureCount), CALOTYPE_INVALID_ARGUMENT);
  EXPECT_THAT(calotype_last_error(), HasSubstr("16"));
  EXPECT_EQ(decode({2, 0, 2, 16}, 0), CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(decode({-1, 3, 2, 16}, 0), CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(decode({int64_t{1} << 40, int64_t{1} << 20, 2, 16}, 0), CALOTYPE_INVALID_DATA);
  EXPECT_EQ(decode({int64_t{1} << 40, 1 << 8, 2, 16}, 0), CALOTYPE_INVALID_ARGUMENT);
}

TEST(CApi, wrong_options_are_refused) {
  const ModelHandle model = embedded();
  calotype_shape image;
  const auto status = [&](auto change) {
    calotype_run_options options = calotype_run_options_defaults();
    change(options);
    return calotype_image_shape(model.get(), &kLatents, &options, &image);
  };
  EXPECT_EQ(status([](auto& o) { o.backend = 9; }), CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(status([](auto& o) { o.precision = -1; }), CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(status([](auto& o) { o.threads = -1; }), CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(status([](auto& o) { o.memory = -1; }), CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(status([](auto& o) { o.image_layout = 3; }), CALOTYPE_INVALID_ARGUMENT);
  EXPECT_EQ(status([](auto&) {}), CALOTYPE_OK);
}

TEST(CApi, each_thread_has_its_own_last_error) {
  calotype_model* model = nullptr;
  ASSERT_EQ(calotype_load("/nowhere/one", nullptr, &model), CALOTYPE_NOT_FOUND);
  std::string theirs;
  std::thread([&] {
    theirs = calotype_last_error();
    calotype_load("/nowhere/two", nullptr, &model);
  }).join();
  EXPECT_EQ(theirs, "");
  EXPECT_THAT(calotype_last_error(), HasSubstr("/nowhere/one"));
}

TEST(CApi, one_model_serves_several_threads) {
  const ModelHandle model = embedded();
  const std::vector<float> latents = some_latents();
  std::vector<std::vector<uint8_t>> images(4, std::vector<uint8_t>(kPictureCount));
  std::vector<std::thread> threads;
  for (auto& image : images) {
    threads.emplace_back([&] {
      calotype_run_options options = calotype_run_options_defaults();
      options.threads = 1;
      EXPECT_EQ(calotype_decode_u8(model.get(), latents.data(), &kLatents, image.data(),
                                   image.size(), &options),
                CALOTYPE_OK);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& image : images) EXPECT_EQ(image, images[0]);
}

}  // namespace
}  // namespace calotype
