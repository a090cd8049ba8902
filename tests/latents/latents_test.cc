#include "calotype/latents.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/file.h"
#include "files.h"
#include "latents/npy.h"
#include "support/errors.h"

namespace calotype {
namespace {

using test::Bytes;
using test::config_of;
using test::file_of;
using test::same_values;

Tensor noise(Shape shape) {
  test::Random random(test::test_seed(7));
  return random.normal_tensor(std::move(shape));
}

LatentFile latents_of(Tensor tensor) {
  LatentFile file;
  file.latents = std::move(tensor);
  return file;
}

TEST(Latents, come_back_with_all_that_was_recorded) {
  test::TemporaryFolder folder;
  LatentFile file = latents_of(noise({2, 3, 5, 16}));
  file.image_height = 20;
  file.image_width = 33;
  file.model = "some/model \"quoted\" \xc3\xa9";
  file.latent_space = std::string(64, 'a');
  for (const LatentLayout layout : {LatentLayout::kNchw, LatentLayout::kNhwc}) {
    const std::string path = folder.path("x.safetensors");
    write_latents(file, path, config_of(16), {.layout = layout});
    const LatentFile read = read_latents(path, config_of(16));
    EXPECT_TRUE(same_values(read.latents, file.latents));
    EXPECT_EQ(read.image_height, 20);
    EXPECT_EQ(read.image_width, 33);
    EXPECT_EQ(read.model, file.model);
    EXPECT_EQ(read.latent_space, file.latent_space);
    EXPECT_FALSE(read.unscaled || read.moments);
  }
}

TEST(Latents, are_nchw_in_safetensors_and_npy_unless_said_otherwise) {
  test::TemporaryFolder folder;
  const LatentFile file = latents_of(noise({1, 2, 3, 4}));
  write_latents(file, folder.path("x.safetensors"), config_of(4));
  const Bytes bytes = read_file(folder.path("x.safetensors"));
  const SafetensorsFile parsed = parse_safetensors(bytes, "x");
  EXPECT_EQ(parsed.tensors.at("latents").shape, (Shape{1, 4, 2, 3}));
  EXPECT_EQ(parsed.metadata.at("layout"), "NCHW");

  write_latents(file, folder.path("x.npy"), config_of(4));
  const Bytes npy = read_file(folder.path("x.npy"));
  EXPECT_EQ(parse_npy(npy, "x").view.shape, (Shape{1, 4, 2, 3}));
  EXPECT_TRUE(same_values(read_latents(folder.path("x.npy"), config_of(4)).latents, file.latents));
}

TEST(Latents, of_other_programs_are_taken_for_nchw) {
  const Tensor nchw = noise({1, 16, 3, 2});
  const LatentFile read = decode_latents(file_of(nchw), "x", config_of(16));
  EXPECT_TRUE(same_values(read.latents, nchw_to_nhwc(nchw)));
  EXPECT_EQ(read.image_height, 0);
  EXPECT_EQ(read.latent_space, "");
}

TEST(Latents, are_nhwc_where_metadata_or_the_caller_says_so) {
  const Tensor nhwc = noise({1, 3, 2, 16});
  EXPECT_TRUE(same_values(
      decode_latents(file_of(nhwc, {{"layout", "NHWC"}}), "x", config_of(16)).latents, nhwc));
  EXPECT_TRUE(same_values(
      decode_latents(file_of(nhwc), "x", config_of(16), {.layout = LatentLayout::kNhwc}).latents,
      nhwc));
  // The caller overrules the file.
  const Tensor square = noise({1, 4, 4, 4});
  const LatentFile overruled = decode_latents(file_of(square, {{"layout", "NHWC"}}), "x",
                                              config_of(4), {.layout = LatentLayout::kNchw});
  EXPECT_TRUE(same_values(overruled.latents, nchw_to_nhwc(square)));
}

TEST(Latents, of_every_float_dtype_are_read) {
  const Tensor nchw({1, 4, 1, 2}, std::vector<float>{1, -2, 0.5f, 4, 8, -0.25f, 3, 0});
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    const LatentFile read = decode_latents(file_of(nchw, {}, dtype), "x", config_of(4));
    EXPECT_EQ(read.dtype, dtype);
    EXPECT_TRUE(same_values(read.latents, nchw_to_nhwc(nchw)));
  }
  const Bytes npy = npy_bytes(nchw.values(), nchw.shape(), DType::kF16);
  EXPECT_TRUE(same_values(decode_latents(npy, "x", config_of(4)).latents, nchw_to_nhwc(nchw)));
}

TEST(Latents, are_written_in_the_dtype_asked_for) {
  test::TemporaryFolder folder;
  const LatentFile file = latents_of(noise({1, 2, 3, 4}));
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    write_latents(file, folder.path("x.safetensors"), config_of(4), {.dtype = dtype});
    const LatentFile read = read_latents(folder.path("x.safetensors"), config_of(4));
    EXPECT_EQ(read.dtype, dtype);
    for (int64_t i = 0; i < file.latents.size(); i++) {
      const float v = file.latents.data()[i];
      EXPECT_NEAR(read.latents.data()[i], v, std::abs(v) / 200);
    }
  }
}

TEST(Latents, are_written_in_the_container_asked_for_whatever_the_suffix) {
  test::TemporaryFolder folder;
  const LatentFile file = latents_of(noise({1, 2, 3, 4}));
  write_latents(file, folder.path("fifo"), config_of(4), {.format = LatentFormat::kNpy});
  EXPECT_TRUE(looks_like_npy(read_file(folder.path("fifo"))));
  EXPECT_TRUE(same_values(read_latents(folder.path("fifo"), config_of(4)).latents, file.latents));
}

TEST(Latents, may_be_raw_z_or_moments) {
  test::TemporaryFolder folder;
  LatentFile z = latents_of(noise({1, 2, 2, 32}));
  z.unscaled = true;
  write_latents(z, folder.path("z.safetensors"), config_of(32, true));
  const LatentFile read = read_latents(folder.path("z.safetensors"), config_of(32, true));
  EXPECT_TRUE(read.unscaled);
  EXPECT_TRUE(same_values(read.latents, z.latents));

  LatentFile moments = latents_of(noise({1, 2, 2, 8}));
  moments.moments = moments.unscaled = true;
  write_latents(moments, folder.path("m.safetensors"), config_of(4));
  EXPECT_TRUE(read_latents(folder.path("m.safetensors"), config_of(4)).moments);
}

TEST(Latents, are_raw_z_where_the_caller_says_so) {
  const Tensor z = noise({1, 32, 4, 4});
  const LatentFile read = decode_latents(file_of(z), "x", config_of(32, true), {.unscaled = true});
  EXPECT_TRUE(read.unscaled);
  EXPECT_EQ(read.latents.dim(3), 32);
}

TEST(ComfyLatents, hold_raw_z) {
  const Tensor z = noise({1, 16, 2, 3}), marker({0});
  const Bytes file = file_of({{"latent_tensor", &z}, {"latent_format_version_0", &marker}},
                             {{"prompt", "{}"}, {"workflow", "{}"}});
  const LatentFile read = decode_latents(file, "x.latent", config_of(16));
  EXPECT_TRUE(read.unscaled);
  EXPECT_TRUE(same_values(read.latents, nchw_to_nhwc(z)));
}

// ComfyUI's LoadLatent: "if 'latent_format_version_0' not in latent: multiplier = 1.0 / 0.18215".
TEST(ComfyLatents, without_the_marker_hold_z_times_0_18215) {
  const Tensor scaled = noise({1, 4, 2, 3});
  const LatentFile read =
      decode_latents(file_of({{"latent_tensor", &scaled}}), "x.latent", config_of(4));
  EXPECT_TRUE(read.unscaled);
  const Tensor nhwc = nchw_to_nhwc(scaled);
  for (int64_t i = 0; i < nhwc.size(); i++) {
    EXPECT_FLOAT_EQ(read.latents.data()[i] * 0.18215f, nhwc.data()[i]);
  }
}

TEST(ComfyLatents, of_flux2_hold_the_normalised_patches) {
  const Tensor latents = noise({1, 128, 2, 3}), marker({0});
  const Bytes file = file_of({{"latent_tensor", &latents}, {"latent_format_version_0", &marker}});
  const LatentFile read = decode_latents(file, "x.latent", config_of(32, true));
  EXPECT_FALSE(read.unscaled);
  EXPECT_TRUE(same_values(read.latents, nchw_to_nhwc(latents)));
}

TEST(ComfyLatents, are_written_with_the_marker) {
  test::TemporaryFolder folder;
  LatentFile file = latents_of(noise({1, 2, 3, 16}));
  file.unscaled = true;
  write_latents(file, folder.path("x.latent"), config_of(16));
  const Bytes bytes = read_file(folder.path("x.latent"));
  const SafetensorsFile parsed = parse_safetensors(bytes, "x");
  EXPECT_EQ(parsed.tensors.size(), 2u);
  EXPECT_EQ(parsed.tensors.at("latent_tensor").shape, (Shape{1, 16, 2, 3}));
  EXPECT_EQ(parsed.tensors.at("latent_format_version_0").shape, Shape{0});
  const LatentFile read = read_latents(folder.path("x.latent"), config_of(16));
  EXPECT_TRUE(read.unscaled);
  EXPECT_TRUE(same_values(read.latents, file.latents));
}

TEST(Latents, that_overflow_the_dtype_are_refused) {
  const test::TemporaryFolder folder;
  LatentFile file;
  file.latents = noise({1, 2, 3, 16});
  file.latents.data()[5] = -65519;  // rounds to the largest f16
  for (const std::string name : {"x.npy", "x.safetensors"}) {
    const std::string path = folder.path(name);
    file.latents.data()[7] = 0;
    write_latents(file, path, config_of(16), {.dtype = DType::kF16});
    file.latents.data()[7] = 65520;
    EXPECT_THAT(
        test::sentence_of([&] { write_latents(file, path, config_of(16), {.dtype = DType::kF16}); },
                          ErrorCode::kInvalidData),
        testing::AllOf(testing::StartsWith(path), testing::HasSubstr("overflows f16")));
    write_latents(file, path, config_of(16));
  }
  file.latents.data()[7] = 3.4e38f;
  EXPECT_THAT(test::sentence_of(
                  [&] {
                    write_latents(file, folder.path("y.safetensors"), config_of(16),
                                  {.dtype = DType::kBF16});
                  },
                  ErrorCode::kInvalidData),
              testing::HasSubstr("overflows bf16; use f32"));
}

// diffusers' FluxPipeline._pack_latents, as its four lines of Python do it.
Tensor packed_like_diffusers(const Tensor& nchw) {
  const int64_t b = nchw.dim(0), c = nchw.dim(1), h = nchw.dim(2), w = nchw.dim(3);
  Tensor tokens({b, (h / 2) * (w / 2), c * 4});
  float* out = tokens.data();
  for (int64_t n = 0; n < b; n++) {
    for (int64_t y = 0; y < h / 2; y++) {
      for (int64_t x = 0; x < w / 2; x++) {
        for (int64_t k = 0; k < c; k++) {
          for (int64_t dy = 0; dy < 2; dy++) {
            for (int64_t dx = 0; dx < 2; dx++) {
              *out++ = nchw.data()[((n * c + k) * h + 2 * y + dy) * w + 2 * x + dx];
            }
          }
        }
      }
    }
  }
  return tokens;
}

TEST(PackedTokens, of_flux_are_2x2_patches) {
  const Tensor nchw = noise({2, 16, 4, 6});
  const Bytes file = file_of(packed_like_diffusers(nchw));
  const LatentFile read =
      decode_latents(file, "x", config_of(16), {.image_height = 32, .image_width = 48});
  EXPECT_TRUE(same_values(read.latents, nchw_to_nhwc(nchw)));
  EXPECT_TRUE(read.packed);
  // Sides that are no multiple of 16 lose the rest, as in the pipeline.
  const LatentFile floored =
      decode_latents(file, "x", config_of(16), {.image_height = 47, .image_width = 50});
  EXPECT_TRUE(same_values(floored.latents, nchw_to_nhwc(nchw)));
  EXPECT_EQ(floored.image_height, 32);
  EXPECT_EQ(floored.image_width, 48);
  // But where there are tokens for the rest, the picture was padded.
  const LatentFile padded =
      decode_latents(file, "x", config_of(16), {.image_height = 17, .image_width = 45});
  EXPECT_TRUE(same_values(padded.latents, nchw_to_nhwc(nchw)));
  EXPECT_EQ(padded.image_height, 17);
  EXPECT_EQ(padded.image_width, 45);
}

TEST(PackedTokens, of_flux2_are_latents_in_raster_order) {
  const Tensor tokens = noise({1, 6, 128});
  const LatentFile read = decode_latents(file_of(tokens), "x", config_of(32, true),
                                         {.image_height = 32, .image_width = 48});
  EXPECT_TRUE(same_values(read.latents, Tensor({1, 2, 3, 128}, tokens.values())));
}

TEST(Latents, format_is_told_by_suffix) {
  EXPECT_EQ(latent_format_of("a/b.SafeTensors"), LatentFormat::kSafetensors);
  EXPECT_EQ(latent_format_of("b.npy"), LatentFormat::kNpy);
  EXPECT_EQ(latent_format_of("b.latent"), LatentFormat::kComfy);
}

}  // namespace
}  // namespace calotype
