#include <gmock/gmock.h>

#include <cstring>
#include <string_view>

#include "data.h"
#include "support/random.h"

namespace calotype {
namespace {

using test::data_file;
using test::data_path;
using test::gradient;
using test::steps_between;

struct Case {
  const char* file;         // its expectation is <file up to the first _>.npy
  double tolerance = 1e-3;  // in steps of 8 bits
};

// Far below a step of 16 bits: the roundings of float32.
constexpr double kExact = 1e-4;
// Lossy files are of quality 100: a step or two.
constexpr double kLossy = 4;

class ReadsPictures : public testing::TestWithParam<Case> {};

TEST_P(ReadsPictures, like_an_independent_reader) {
  const std::string file = GetParam().file;
  const ReadImageOptions options = {.background = {1, 0.5f, 0.25f}};
  const Tensor image = read_image(data_path(file), options);
  const Tensor expected = read_image(data_path(file.substr(0, file.find('_')) + ".npy"));
  EXPECT_EQ(image.shape(), expected.shape());
  EXPECT_LE(steps_between(image, expected), GetParam().tolerance);
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.file;
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Png, ReadsPictures,
                         testing::Values(Case{"base_rgb8.png"}, Case{"base_interlaced.png"},
                                         Case{"deep_rgb16.png"}, Case{"deep_interlaced16.png"},
                                         Case{"grey_grey8.png"}, Case{"deepgrey_grey16.png"},
                                         Case{"palette_8bit.png"}, Case{"bits_1bit.png"},
                                         Case{"few_palette2bit.png"}, Case{"alpha_rgba8.png"},
                                         Case{"deepalpha_rgba16.png"}, Case{"alphagrey_ga8.png"},
                                         Case{"keyed_trns.png"}, Case{"clear_palette_trns.png"}),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Jpeg, ReadsPictures,
                         testing::Values(Case{"base_rgb.jpg", kLossy},
                                         Case{"base_progressive.jpg", kLossy},
                                         Case{"grey_grey.jpg", kLossy},
                                         Case{"cmyk_plain.jpg", 1.01}),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Webp, ReadsPictures,
                         testing::Values(Case{"base_lossless.webp"}, Case{"alpha_lossless.webp"},
                                         Case{"lossy_plain.webp"}),
                         name_of);
INSTANTIATE_TEST_SUITE_P(
    Orientation, ReadsPictures,
    testing::Values(Case{"base_orientation1.png"}, Case{"base_orientation2.png"},
                    Case{"base_orientation3.png"}, Case{"base_orientation4.png"},
                    Case{"base_orientation5.png"}, Case{"base_orientation6.png"},
                    Case{"base_orientation7.png"}, Case{"base_orientation8.png"},
                    Case{"base_exif_after_pixels.png"}, Case{"base_orientation8.webp"},
                    Case{"base_orientation1.jpg", kLossy}, Case{"base_orientation2.jpg", kLossy},
                    Case{"base_orientation3.jpg", kLossy}, Case{"base_orientation4.jpg", kLossy},
                    Case{"base_orientation5.jpg", kLossy}, Case{"base_orientation6.jpg", kLossy},
                    Case{"base_orientation7.jpg", kLossy}, Case{"base_orientation8.jpg", kLossy}),
    name_of);
// The profiles' numbers have 16 bits; hand-made expectations differ by that much.
INSTANTIATE_TEST_SUITE_P(
    Profile, ReadsPictures,
    testing::Values(Case{"wide_rgb8.png", 0.2}, Case{"wide_rgb.jpg", 2 * kLossy},
                    Case{"wide_lossless.webp", 0.2}, Case{"deepwide_rgb16.png", 0.3},
                    Case{"alphawide_rgba8.png", 0.2}, Case{"lineargrey_grey8.png", 0.2},
                    Case{"lineargrey_grey.jpg", 2 * kLossy}, Case{"base_srgb_profile.png"},
                    Case{"widegrey_rgb_profile.jpg", kLossy}, Case{"ink_cmyk.jpg", 1.5}),
    name_of);

TEST(Picture, is_told_by_content_and_not_by_suffix) {
  test::TemporaryFolder folder;
  const std::string path = folder.path("photo.jpg");
  write_file(path, data_file("base_rgb8.png"));
  EXPECT_EQ(steps_between(read_image(path), read_image(data_path("base_rgb8.png"))), 0);
}

TEST(Picture, is_composed_over_white_unless_asked_otherwise) {
  const Tensor white = read_image(data_path("clear_palette_trns.png"));
  // The third colour of the palette is transparent, and stands at (0, 2).
  for (int c = 0; c < 3; c++) EXPECT_EQ(white.data()[2 * 3 + c], 1.0f);
}

TEST(Picture, refuses_a_background_out_of_range) {
  const ReadImageOptions options = {.background = {0, 1.5f, 0}};
  const Error error = test::error_of([&] { read_image(data_path("base_rgb8.png"), options); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(error.what(), testing::HasSubstr("1.5"));
}

Tensor again(const Tensor& image, ImageFormat format, const WriteImageOptions& options = {}) {
  return decode_image(encode_image(image, format, options), "written");
}

TEST(WritesPng, eight_bits_exactly) {
  const Tensor base = read_image(data_path("base.npy"));
  EXPECT_LE(steps_between(again(base, ImageFormat::kPng), base), kExact);
}

TEST(WritesPng, sixteen_bits_exactly) {
  const Tensor deep = read_image(data_path("deep.npy"));
  EXPECT_LE(steps_between(again(deep, ImageFormat::kPng, {.bit_depth = 16}), deep), kExact);
}

TEST(WritesWebp, lossless_at_quality_100) {
  const Tensor base = read_image(data_path("base.npy"));
  EXPECT_LE(steps_between(again(base, ImageFormat::kWebp, {.quality = 100}), base), kExact);
}

TEST(WritesPictures, better_with_higher_quality) {
  const Tensor image = gradient(64, 96);
  for (const ImageFormat format : {ImageFormat::kJpeg, ImageFormat::kWebp}) {
    const auto high = encode_image(image, format, {.quality = 95});
    const auto low = encode_image(image, format, {.quality = 20});
    EXPECT_LT(low.size(), high.size());
    EXPECT_GT(psnr(image, decode_image(high, "high")), 38);
    EXPECT_LT(psnr(image, decode_image(low, "low")), psnr(image, decode_image(high, "high")));
  }
}

bool contains(const std::vector<std::byte>& bytes, std::string_view text) {
  const std::string_view all(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return all.find(text) != std::string_view::npos;
}

TEST(WritesPictures, tagged_srgb) {
  const Tensor image = gradient(8, 8);
  EXPECT_TRUE(contains(encode_image(image, ImageFormat::kPng), "sRGB"));
  EXPECT_TRUE(contains(encode_image(image, ImageFormat::kJpeg), "ICC_PROFILE"));
  EXPECT_TRUE(contains(encode_image(image, ImageFormat::kWebp), "ICCP"));
}

TEST(WritesPictures, the_same_bytes_every_time) {
  const Tensor image = gradient(33, 17);
  for (const ImageFormat format : {ImageFormat::kPng, ImageFormat::kJpeg, ImageFormat::kWebp}) {
    EXPECT_EQ(encode_image(image, format), encode_image(image, format));
  }
}

TEST(WritesPictures, with_values_out_of_range_clamped_and_nan_black) {
  Tensor image({1, 1, 4, 3},
               std::vector<float>{-3, 3, 0, NAN, INFINITY, -INFINITY, 0, 0, 0, 1, 1, 1});
  for (const int bits : {8, 16}) {
    const Tensor read = again(image, ImageFormat::kPng, {.bit_depth = bits});
    const std::vector<float> expected = {-1, 1, 0, -1, 1, -1};
    for (size_t i = 0; i < expected.size(); i++) {
      EXPECT_NEAR(read.data()[i], expected[i], 1.01 / 255) << i;
    }
  }
}

TEST(WritesPictures, of_one_pixel_and_of_odd_sides) {
  for (const ImageFormat format : {ImageFormat::kPng, ImageFormat::kJpeg, ImageFormat::kWebp}) {
    for (const auto& [height, width] : {std::pair{1, 1}, {1, 7}, {5, 1}, {17, 31}}) {
      const Tensor image = gradient(height, width);
      EXPECT_EQ(again(image, format).shape(), image.shape());
    }
  }
}

TEST(WritesPictures, to_a_file_whose_suffix_says_how) {
  test::TemporaryFolder folder;
  const Tensor base = read_image(data_path("base.npy"));
  for (const char* name : {"a.png", "a.PNG", "a.npy", "a.safetensors"}) {
    write_image(base, folder.path(name));
    EXPECT_LE(steps_between(read_image(folder.path(name)), base), kExact) << name;
  }
  write_image(base, folder.path("b.JPG"));
  EXPECT_EQ(read_file(folder.path("b.JPG")).at(0), std::byte{0xff});
  write_image(base, folder.path("anything"), {}, ImageFormat::kWebp);
  EXPECT_TRUE(contains(read_file(folder.path("anything")), "WEBP"));
}

TEST(WritesPictures, refuses_what_a_format_cannot_hold) {
  const auto message = [](const Tensor& image, ImageFormat format, const WriteImageOptions& o = {},
                          ErrorCode code = ErrorCode::kInvalidArgument) {
    const Error error = test::error_of([&] { encode_image(image, format, o); });
    EXPECT_EQ(error.code(), code);
    return std::string(error.what());
  };
  using testing::HasSubstr;
  const Tensor image = gradient(4, 4);
  EXPECT_THAT(message(Tensor({2, 4, 4, 3}), ImageFormat::kPng), HasSubstr("[2, 4, 4, 3]"));
  EXPECT_THAT(message(Tensor({1, 4, 4, 1}), ImageFormat::kPng), HasSubstr("[1, 4, 4, 1]"));
  EXPECT_THAT(message(Tensor({1, 0, 4, 3}), ImageFormat::kNpy), HasSubstr("[1, 0, 4, 3]"));
  EXPECT_THAT(message(image, ImageFormat::kJpeg, {.quality = 0}), HasSubstr("quality"));
  EXPECT_THAT(message(image, ImageFormat::kJpeg, {.quality = 101}), HasSubstr("101"));
  EXPECT_THAT(message(image, ImageFormat::kPng, {.bit_depth = 12}), HasSubstr("12"));
  constexpr ErrorCode kUnsupported = ErrorCode::kUnsupported;
  EXPECT_THAT(message(gradient(1, 16384), ImageFormat::kWebp, {}, kUnsupported),
              HasSubstr("16383"));
  EXPECT_THAT(message(gradient(1, 65501), ImageFormat::kJpeg, {}, kUnsupported),
              HasSubstr("65500"));
  const Error named = test::error_of([&] { write_image(gradient(16384, 1), "no/wide.webp"); });
  EXPECT_THAT(named.what(), testing::StartsWith("no/wide.webp: "));
}

TEST(WritesPictures, knows_which_sizes_fit_before_there_is_a_picture) {
  const auto refused = [](ImageFormat format, int64_t height, int64_t width) {
    return test::error_of([&] { check_image_size("x", format, height, width); }).code() ==
           ErrorCode::kUnsupported;
  };
  EXPECT_TRUE(refused(ImageFormat::kWebp, 1, 16384));
  EXPECT_TRUE(refused(ImageFormat::kWebp, 16384, 1));
  EXPECT_FALSE(refused(ImageFormat::kWebp, 16383, 16383));
  EXPECT_TRUE(refused(ImageFormat::kJpeg, 65501, 1));
  EXPECT_FALSE(refused(ImageFormat::kJpeg, 1, 65500));
  EXPECT_TRUE(refused(ImageFormat::kPng, 1, int64_t{1} << 31));
  EXPECT_FALSE(refused(ImageFormat::kNpy, 1, int64_t{1} << 31));
}

TEST(WritesPictures, refuses_unknown_suffixes_and_no_format) {
  const Error suffix = test::error_of([] { image_format_of("a.tiff"); });
  EXPECT_EQ(suffix.code(), ErrorCode::kUnsupported);
  EXPECT_THAT(suffix.what(),
              testing::AllOf(testing::HasSubstr("a.tiff"), testing::HasSubstr(".webp")));
  EXPECT_EQ(test::error_of([] { image_format_of("none"); }).code(), ErrorCode::kUnsupported);
  EXPECT_EQ(test::error_of([] { write_image(gradient(2, 2), "-"); }).code(),
            ErrorCode::kInvalidArgument);
}

TEST(Uint8, is_rounded_to_nearest_and_clamped) {
  const std::vector<float> values = {
      -1.f, 1.f, 0.f, -2.f, 2.f, NAN, 2 * 100.4f / 255 - 1, 2 * 100.6f / 255 - 1};
  std::vector<uint8_t> bytes(values.size());
  to_uint8(values, bytes);
  EXPECT_THAT(bytes, testing::ElementsAre(0, 255, 128, 0, 255, 0, 100, 101));
}

TEST(Uint8, comes_back_unchanged) {
  std::vector<uint8_t> all(256), back(256);
  for (size_t i = 0; i < 256; i++) all[i] = static_cast<uint8_t>(i);
  std::vector<float> values(256);
  from_uint8(all, values);
  EXPECT_EQ(values.front(), -1.0f);
  EXPECT_EQ(values.back(), 1.0f);
  to_uint8(values, back);
  EXPECT_EQ(all, back);
}

}  // namespace
}  // namespace calotype
