#include <cstdio>
// jpeglib.h needs it.
#include <gmock/gmock.h>
#include <jpeglib.h>
#include <sys/resource.h>
#include <zlib.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "data.h"

namespace calotype {
namespace {

using test::data_file;
using test::error_of;
using testing::AllOf;
using testing::HasSubstr;

using Bytes = std::vector<std::byte>;

Error refusal(const Bytes& bytes) {
  return error_of([&] { decode_image(bytes, "x.bin"); });
}

void put_big_endian(Bytes& bytes, size_t at, uint32_t value) {
  for (size_t i = 0; i < 4; i++) bytes.at(at + i) = static_cast<std::byte>(value >> (24 - 8 * i));
}

// A PNG's IHDR with another size, its checksum right.
Bytes png_claiming(Bytes png, uint32_t width, uint32_t height) {
  put_big_endian(png, 16, width);
  put_big_endian(png, 20, height);
  const auto crc = crc32(0, reinterpret_cast<const Bytef*>(png.data() + 12), 17);
  put_big_endian(png, 29, static_cast<uint32_t>(crc));
  return png;
}

class Truncated : public testing::TestWithParam<const char*> {};

TEST_P(Truncated, is_refused_at_every_length) {
  const Bytes whole = data_file(GetParam());
  for (size_t size = 0; size < whole.size(); size++) {
    const Error error = refusal(Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size)));
    EXPECT_THAT(error.code(), testing::AnyOf(ErrorCode::kInvalidData, ErrorCode::kUnsupported))
        << size << ": " << error.what();
    EXPECT_THAT(error.what(), HasSubstr("x.bin")) << size;
  }
}

std::string name_of(const testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Pictures, Truncated,
                         testing::Values("base_rgb8.png", "base_interlaced.png",
                                         "deepwide_rgb16.png", "base_rgb.jpg",
                                         "base_progressive.jpg", "wide_rgb.jpg", "cmyk_plain.jpg",
                                         "base_lossless.webp", "lossy_plain.webp",
                                         "wide_lossless.webp"),
                         name_of);

TEST(BadPng, with_any_byte_changed_is_refused) {
  for (const char* file : {"base_rgb8.png", "deepwide_rgb16.png"}) {
    const Bytes whole = data_file(file);
    for (size_t i = 0; i < whole.size(); i++) {
      Bytes changed = whole;
      changed[i] ^= std::byte{0x20};
      EXPECT_NE(refusal(changed).code(), ErrorCode::kInternal) << file << " at " << i;
    }
  }
}

TEST(BadPng, checksum_is_named) {
  Bytes changed = data_file("base_rgb8.png");
  changed[changed.size() - 20] ^= std::byte{1};  // in the last chunk of pixels
  EXPECT_THAT(refusal(changed).what(), AllOf(HasSubstr("x.bin"), HasSubstr("damaged")));
}

int64_t peak_kib() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

// What a file of a few hundred bytes may cost.
void expect_cheap_refusal(const Bytes& bytes, const std::string& claim) {
  const int64_t before = peak_kib();
  const auto start = std::chrono::steady_clock::now();
  const Error error = refusal(bytes);
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(error.code(), ErrorCode::kInvalidData);
  EXPECT_THAT(error.what(), HasSubstr(claim));
  EXPECT_LT(time.count(), 1.0);
  EXPECT_LT(peak_kib() - before, 64 << 10);
}

TEST(ClaimedSize, of_a_png_is_refused_before_memory_is_taken) {
  const Bytes png = data_file("base_rgb8.png");
  expect_cheap_refusal(png_claiming(png, 100000, 100000), "100000 x 100000");
  expect_cheap_refusal(png_claiming(png, 16000, 16000), "16000 x 16000");
  expect_cheap_refusal(png_claiming(png, 0x7fffffff, 0x7fffffff), "2147483647 x 2147483647");
  // Few enough for its bytes, but more than they hold.
  expect_cheap_refusal(png_claiming(png, 200, 200), "Not enough image data");
  EXPECT_EQ(refusal(png_claiming(png, 0, 5)).code(), ErrorCode::kInvalidData);
}

TEST(ClaimedSize, of_a_jpeg_is_refused_before_memory_is_taken) {
  for (const char* file : {"base_rgb.jpg", "base_progressive.jpg"}) {
    Bytes jpeg = data_file(file);
    for (size_t i = 0; i + 9 < jpeg.size(); i++) {  // the frame header
      const bool frame = jpeg[i] == std::byte{0xff} &&
                         (jpeg[i + 1] == std::byte{0xc0} || jpeg[i + 1] == std::byte{0xc2});
      if (!frame) continue;
      jpeg[i + 5] = jpeg[i + 7] = std::byte{0xff};
      jpeg[i + 6] = jpeg[i + 8] = std::byte{0};
    }
    expect_cheap_refusal(jpeg, "65280 x 65280");
  }
}

TEST(ClaimedSize, of_a_webp_is_refused_before_memory_is_taken) {
  Bytes webp = data_file("base_lossless.webp");  // RIFF, VP8L: signature, then 14 bits of width - 1
  ASSERT_EQ(webp.at(20), std::byte{0x2f});
  webp[21] = webp[22] = webp[23] = std::byte{0xff};
  webp[24] |= std::byte{0x0f};
  expect_cheap_refusal(webp, "16384 x 16384");
}

TEST(BadWebp, animation_is_refused_by_name) {
  const Error error = refusal(data_file("animated.webp"));
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_THAT(error.what(), AllOf(HasSubstr("x.bin"), HasSubstr("animated")));
}

TEST(BadProfile, is_refused_in_every_format) {
  for (const char* file : {"bad_profile.png", "bad_profile.jpg", "bad_profile.webp"}) {
    const Error error = refusal(data_file(file));
    EXPECT_EQ(error.code(), ErrorCode::kInvalidData) << file;
    EXPECT_THAT(error.what(), AllOf(HasSubstr("x.bin"), HasSubstr("ICC profile"))) << file;
  }
}

TEST(BadProfile, of_another_colour_model_is_refused) {
  EXPECT_THAT(refusal(data_file("cmyk_profile_on_rgb.jpg")).what(),
              AllOf(HasSubstr("CMYK"), HasSubstr("RGB")));
}

TEST(BadProfile, of_an_unknown_colour_space_is_refused) {
  Bytes jpeg = data_file("wide_rgb.jpg");
  const std::string_view text(reinterpret_cast<const char*>(jpeg.data()), jpeg.size());
  const size_t space = text.find("RGB XYZ ");
  ASSERT_NE(space, std::string_view::npos);
  std::fill_n(jpeg.begin() + static_cast<ptrdiff_t>(space), 4, std::byte{0xfe});
  EXPECT_THAT(refusal(jpeg).what(), AllOf(HasSubstr("x.bin"), HasSubstr("ICC profile")));
}

// 16384 x 16384 pixels are 768 MiB of bytes and 3 GiB of floats.
TEST(BadPicture, that_takes_more_memory_than_it_may_is_refused_by_its_header) {
  Bytes png = png_claiming(data_file("edge.png"), 16384, 16384);
  png.resize(size_t{4} << 20);  // as many bytes as deflate needs at least
  const auto read = [&](int64_t memory) {
    return error_of([&] { decode_image(png, "x.png", {.memory = memory}); });
  };
  EXPECT_EQ(read(300 << 20).code(), ErrorCode::kOutOfMemory);
  EXPECT_THAT(read(300 << 20).what(),
              AllOf(HasSubstr("x.png"), HasSubstr("16384 x 16384"), HasSubstr("4026531840")));
  for (const char* name :
       {"edge.png", "base_rgb.jpg", "base_progressive.jpg", "base_lossless.webp"}) {
    const Bytes bytes = data_file(name);
    EXPECT_EQ(error_of([&] { decode_image(bytes, name, {.memory = 100}); }).code(),
              ErrorCode::kOutOfMemory)
        << name;
    decode_image(bytes, name, {.memory = 1 << 20});
  }
}

TEST(BadPicture, of_an_unknown_format_is_named) {
  const auto sentence = [](std::string_view text) {
    Bytes bytes(64);
    std::memcpy(bytes.data(), text.data(), text.size());
    const Error error = refusal(bytes);
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    return std::string(error.what());
  };
  EXPECT_THAT(sentence("GIF89a"), HasSubstr("a GIF"));
  EXPECT_THAT(sentence("BM"), HasSubstr("a BMP"));
  EXPECT_THAT(sentence(std::string_view("\0\0\0\x1c"
                                        "ftypavif",
                                        12)),
              HasSubstr("an AVIF"));
  EXPECT_THAT(sentence("hello"), HasSubstr("no picture"));
  EXPECT_THAT(refusal({}).what(), HasSubstr("empty"));
}

TEST(BadPicture, that_is_missing_or_a_folder_is_an_error) {
  EXPECT_EQ(error_of([] { read_image("/no/such/picture.png"); }).code(), ErrorCode::kNotFound);
  EXPECT_NE(error_of([] { read_image("/"); }).code(), ErrorCode::kInternal);
}

// A grey JPEG of 8x8 pixels whose three components have a scan each, the last `scans` times.
Bytes jpeg_of_scans(int scans) {
  jpeg_compress_struct cinfo;
  jpeg_error_mgr errors;
  cinfo.err = jpeg_std_error(&errors);
  jpeg_create_compress(&cinfo);
  unsigned char* data = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&cinfo, &data, &size);
  cinfo.image_width = cinfo.image_height = 8;
  cinfo.input_components = 3;
  cinfo.in_color_space = JCS_RGB;
  jpeg_set_defaults(&cinfo);
  const jpeg_scan_info script[3] = {
      {1, {0}, 0, 63, 0, 0}, {1, {1}, 0, 63, 0, 0}, {1, {2}, 0, 63, 0, 0}};
  cinfo.scan_info = script;
  cinfo.num_scans = 3;
  jpeg_start_compress(&cinfo, TRUE);
  std::vector<JSAMPLE> grey(8 * 3, 128);
  for (int y = 0; y < 8; y++) {
    JSAMPROW row = grey.data();
    jpeg_write_scanlines(&cinfo, &row, 1);
  }
  jpeg_finish_compress(&cinfo);
  jpeg_destroy_compress(&cinfo);
  const auto* first = reinterpret_cast<const std::byte*>(data);
  Bytes jpeg(first, first + size);
  std::free(data);

  size_t scan = 0;
  for (size_t i = 0; i + 1 < jpeg.size(); i++) {
    if (jpeg[i] == std::byte{0xff} && jpeg[i + 1] == std::byte{0xda}) scan = i;
  }
  const Bytes last(jpeg.begin() + static_cast<ptrdiff_t>(scan), jpeg.end() - 2);
  for (int i = 1; i < scans; i++) jpeg.insert(jpeg.end() - 2, last.begin(), last.end());
  return jpeg;
}

TEST(BadJpeg, with_endless_scans_is_refused) {
  EXPECT_EQ(decode_image(jpeg_of_scans(100), "x").dim(1), 8);
  EXPECT_THAT(refusal(jpeg_of_scans(1000)).what(),
              AllOf(HasSubstr("x.bin"), HasSubstr("200 scans")));
}

}  // namespace
}  // namespace calotype
