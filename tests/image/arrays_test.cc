#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "data.h"
#include "latents/npy.h"
#include "support/random.h"
#include "weights/safetensors.h"

namespace calotype {
namespace {

using test::error_of;
using testing::AllOf;
using testing::HasSubstr;

using Bytes = std::vector<std::byte>;

Tensor noise(Shape shape) {
  test::Random random(test::test_seed(3));
  return random.normal_tensor(std::move(shape), 3);  // beyond [-1, 1] too
}

TEST(ArrayPicture, keeps_every_value_of_a_batch) {
  const Tensor batch = noise({2, 5, 4, 3});
  for (const ImageFormat format : {ImageFormat::kNpy, ImageFormat::kSafetensors}) {
    const Tensor read = decode_image(encode_image(batch, format), "x");
    EXPECT_EQ(read.shape(), batch.shape());
    EXPECT_EQ(test::steps_between(read, batch), 0);
  }
}

TEST(ArrayPicture, may_lack_the_batch_dimension) {
  const Tensor image = noise({1, 5, 4, 3});
  const Bytes bytes = npy_bytes(image.values(), {5, 4, 3}, DType::kF32);
  EXPECT_EQ(decode_image(bytes, "x").shape(), image.shape());
}

TEST(ArrayPicture, carries_metadata_in_safetensors) {
  const Bytes bytes = encode_image(noise({1, 2, 2, 3}), ImageFormat::kSafetensors,
                                   {.metadata = {{"model", "mini"}}});
  EXPECT_EQ(parse_safetensors(bytes, "x").metadata.at("model"), "mini");
}

TEST(ArrayPicture, of_another_shape_or_dtype_is_refused) {
  const std::vector<float> values(48, 0.5f);
  const auto sentence = [&](const Shape& shape) {
    const Error error =
        error_of([&] { decode_image(npy_bytes(values, shape, DType::kF32), "x.npy"); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalidData);
    return std::string(error.what());
  };
  EXPECT_THAT(sentence({1, 3, 4, 4}), AllOf(HasSubstr("x.npy"), HasSubstr("[1, 3, 4, 4]")));
  EXPECT_THAT(sentence({16, 3}), HasSubstr("[16, 3]"));

  const std::vector<std::byte> bytes(12);
  const TensorView integers{DType::kU8, {1, 2, 2, 3}, bytes.data()};
  const Bytes file = safetensors_bytes({}, {SafetensorsEntry::of("image", integers)});
  EXPECT_THAT(error_of([&] { decode_image(file, "x"); }).what(), HasSubstr("U8"));
}

TEST(ArrayPicture, of_size_0_or_with_nan_is_refused) {
  EXPECT_THAT(error_of([&] {
                decode_image(npy_bytes({}, {1, 0, 4, 3}, DType::kF32), "x");
              }).what(),
              HasSubstr("size 0"));
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> values(12, 0);
    values[7] = bad;
    const Bytes bytes = npy_bytes(values, {1, 2, 2, 3}, DType::kF32);
    EXPECT_THAT(error_of([&] { decode_image(bytes, "x"); }).what(), HasSubstr("element 7"));
  }
}

TEST(ArrayPicture, under_another_key_is_refused_by_name) {
  const Tensor image = noise({1, 2, 2, 3});
  const auto sentence = [&](std::vector<SafetensorsEntry> entries) {
    const Bytes bytes = safetensors_bytes({}, std::move(entries));
    return std::string(error_of([&] { decode_image(bytes, "x"); }).what());
  };
  EXPECT_THAT(sentence({SafetensorsEntry::of("latents", image.view())}), HasSubstr("latents"));
  EXPECT_THAT(sentence({SafetensorsEntry::of("image", image.view()),
                        SafetensorsEntry::of("mask", image.view())}),
              HasSubstr("mask"));
  EXPECT_THAT(sentence({}), HasSubstr("no tensor"));
}

TEST(Codecs, are_built_or_refused_with_a_sentence) {
  EXPECT_EQ(image_codecs_built(), CALOTYPE_CODECS != 0);
  if (image_codecs_built()) return;
  const Tensor image = noise({1, 2, 2, 3});
  for (const ImageFormat format : {ImageFormat::kPng, ImageFormat::kJpeg, ImageFormat::kWebp}) {
    const Error error = error_of([&] { encode_image(image, format); });
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr("built without"));
  }
  for (const char* file : {"base_rgb8.png", "base_rgb.jpg", "base_lossless.webp"}) {
    const Error error = error_of([&] { read_image(test::data_path(file)); });
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr("built without"));
  }
}

}  // namespace
}  // namespace calotype
