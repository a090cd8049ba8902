#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "calotype/error.h"
#include "calotype/latents.h"
#include "core/file.h"
#include "files.h"
#include "latents/npy.h"

namespace calotype {
namespace {

using test::Bytes;
using test::config_of;
using test::file_of;
using testing::AllOf;
using testing::HasSubstr;

template <class Call>
Error error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::kInternal, "nothing was thrown");
}

// The sentence with which `bytes` are refused for a model of 16 latent channels.
std::string refusal(const Bytes& bytes, const ReadLatentsOptions& options = {},
                    const AutoencoderKLConfig& config = config_of(16)) {
  const Error error = error_of([&] { decode_latents(bytes, "x.bin", config, options); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidData) << error.what();
  EXPECT_THAT(error.what(), HasSubstr("x.bin"));
  return error.what();
}

Tensor zeros(Shape shape) {
  Tensor tensor(std::move(shape));
  std::fill(tensor.values().begin(), tensor.values().end(), 0.0f);
  return tensor;
}

TEST(RefusesLatents, under_other_keys_by_name) {
  const Tensor t = zeros({1, 16, 2, 2}), marker({0});
  EXPECT_THAT(refusal(file_of({{"samples", &t}})), HasSubstr("samples"));
  EXPECT_THAT(refusal(file_of({{"latents", &t}, {"mask", &t}})), HasSubstr("mask"));
  EXPECT_THAT(refusal(file_of({{"latents", &t}, {"latent_tensor", &t}})), HasSubstr("both"));
  EXPECT_THAT(refusal(file_of(std::vector<std::pair<std::string, const Tensor*>>{})),
              HasSubstr("no latents"));
  EXPECT_THAT(refusal(file_of({{"latent_format_version_0", &marker}})), HasSubstr("no latents"));
  // The marker is empty; a tensor of values under its name is not it.
  EXPECT_THAT(refusal(file_of({{"latent_tensor", &t}, {"latent_format_version_0", &t}})),
              HasSubstr("latent_format_version_0"));
}

TEST(RefusesLatents, of_integers) {
  const std::vector<std::byte> bytes(8 * 16 * 4);
  for (const DType dtype : {DType::kI64, DType::kI32, DType::kU8, DType::kBool, DType::kF8E4M3}) {
    const SafetensorsEntry entry =
        SafetensorsEntry::of("latents", {dtype, {1, 16, 2, 2}, bytes.data()});
    EXPECT_THAT(refusal(safetensors_bytes({}, {entry})), HasSubstr(std::string(dtype_name(dtype))));
  }
}

TEST(RefusesLatents, of_another_rank) {
  EXPECT_THAT(refusal(file_of(zeros({16, 2, 2}))),
              AllOf(HasSubstr("[16, 2, 2]"), HasSubstr("--size")));
  EXPECT_THAT(refusal(file_of(zeros({16}))), HasSubstr("[16]"));
  EXPECT_THAT(refusal(file_of(zeros({1, 16, 1, 2, 2}))), HasSubstr("[1, 16, 1, 2, 2]"));
}

TEST(RefusesLatents, with_other_channels_and_says_which_layout_would_fit) {
  EXPECT_THAT(refusal(file_of(zeros({1, 4, 2, 2}))),
              AllOf(HasSubstr("4 channels"), HasSubstr("have 16"), HasSubstr("another model")));
  EXPECT_THAT(refusal(file_of(zeros({1, 2, 2, 16}))), HasSubstr("--layout nhwc"));
  EXPECT_THAT(refusal(file_of(zeros({1, 16, 2, 2})), {.layout = LatentLayout::kNhwc}),
              HasSubstr("--layout nchw"));
  // FLUX.2 wants patches, or raw z where it is said to be raw.
  const AutoencoderKLConfig flux2 = config_of(32, true);
  EXPECT_THAT(refusal(file_of(zeros({1, 32, 2, 2})), {}, flux2), HasSubstr("have 128"));
  EXPECT_THAT(refusal(file_of(zeros({1, 128, 2, 2})), {.unscaled = true}, flux2),
              HasSubstr("have 32"));
  // Moments are latents only where the file says that it holds moments.
  for (const bool unscaled : {false, true}) {
    EXPECT_THAT(refusal(file_of(zeros({1, 32, 2, 2})), {.unscaled = unscaled}),
                AllOf(HasSubstr("32 channels"), HasSubstr("twice 16 may be moments"),
                      HasSubstr("with --unscaled")));
  }
  EXPECT_THAT(refusal(file_of(zeros({1, 64, 2, 2})), {}, flux2),
              HasSubstr("twice 32 may be moments"));
}

TEST(RefusesLatents, of_size_0) {
  for (const Shape& shape : {Shape{0, 16, 2, 2}, Shape{1, 16, 0, 2}, Shape{1, 16, 2, 0}}) {
    EXPECT_THAT(refusal(file_of(Tensor(shape))), HasSubstr("size 0"));
    EXPECT_THAT(refusal(npy_bytes({}, shape, DType::kF32)), HasSubstr("size 0"));
  }
}

TEST(RefusesLatents, with_nan_or_infinity) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    Tensor t = zeros({1, 16, 2, 2});
    t.data()[37] = bad;
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      EXPECT_THAT(refusal(file_of(t, {}, dtype)), HasSubstr("element 37"));
    }
    EXPECT_THAT(refusal(npy_bytes(t.values(), t.shape(), DType::kF32)), HasSubstr("element 37"));
    const Tensor tokens({1, 1, 64}, t.values());
    EXPECT_THAT(refusal(file_of(tokens), {.image_height = 16, .image_width = 16}),
                HasSubstr("element 37"));
  }
  // Beyond what float32 holds, and beyond it once it is divided by 0.18215.
  std::vector<double> large(64, 1e300);
  const SafetensorsEntry entry = SafetensorsEntry::of(
      "latents", {DType::kF64, {1, 16, 2, 2}, reinterpret_cast<const std::byte*>(large.data())});
  EXPECT_THAT(refusal(safetensors_bytes({}, {entry})), HasSubstr("finite"));
  Tensor edge = zeros({1, 16, 2, 2});
  edge.data()[5] = 3e38f;
  EXPECT_THAT(refusal(file_of({{"latent_tensor", &edge}})), HasSubstr("element 5"));
}

TEST(RefusesLatents, with_holes_trailing_bytes_or_cut_short) {
  const Bytes whole = file_of(zeros({1, 16, 1, 1}));
  for (size_t size = 0; size < whole.size(); size++) {
    refusal(Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size)));
  }
  Bytes longer = whole;
  longer.push_back(std::byte{0});
  refusal(longer);

  // Four bytes before the tensor that belong to none.
  const std::string header =
      R"({"latents":{"dtype":"F32","shape":[1,16,1,1],"data_offsets":[4,68]}})";
  Bytes hole(8 + header.size() + 68);
  hole[0] = static_cast<std::byte>(header.size());
  std::memcpy(hole.data() + 8, header.data(), header.size());
  refusal(hole);
}

TEST(RefusesLatents, whose_metadata_contradicts_them) {
  const Tensor t = zeros({1, 16, 2, 3});  // of a picture from 9 to 16 high and 17 to 24 wide
  const auto with = [&](const char* height, const char* width) {
    return file_of(t, {{"image_height", height}, {"image_width", width}});
  };
  EXPECT_EQ(decode_latents(with("9", "24"), "x", config_of(16)).image_height, 9);
  EXPECT_THAT(refusal(with("17", "24")), HasSubstr("24 x 17"));
  EXPECT_THAT(refusal(with("8", "24")), HasSubstr("24 x 8"));
  EXPECT_THAT(refusal(with("16", "16")), HasSubstr("16 x 16"));
  EXPECT_THAT(refusal(file_of(t, {{"image_height", "16"}})), HasSubstr("0 x 16"));
  for (const char* bad : {"0", "-1", "1e3", "16 ", "99999999999999999999", "4611686018427387904"}) {
    EXPECT_THAT(refusal(with(bad, "24")), HasSubstr("image_height")) << bad;
  }
  EXPECT_THAT(refusal(file_of(t, {{"layout", "CHWN"}})), HasSubstr("CHWN"));
  EXPECT_THAT(refusal(file_of(t, {{"content", "pixels"}})), HasSubstr("pixels"));
}

TEST(RefusesLatents, whose_tokens_do_not_make_the_picture) {
  const ReadLatentsOptions size = {.image_height = 32, .image_width = 48};
  EXPECT_THAT(refusal(file_of(zeros({1, 5, 64})), size),
              AllOf(HasSubstr("5 tokens"), HasSubstr("3 x 2")));
  EXPECT_THAT(refusal(file_of(zeros({1, 6, 16})), size), HasSubstr("[B, N, 64]"));
  EXPECT_THAT(refusal(file_of(zeros({0, 6, 64})), size), HasSubstr("[0, 6, 64]"));
  EXPECT_THAT(refusal(file_of(zeros({1, 6, 64})), {.image_height = 15, .image_width = 48}),
              HasSubstr("3 x 0"));
  EXPECT_THAT(refusal(file_of(zeros({1, 6, 64})),
                      {.image_height = int64_t{1} << 62, .image_width = int64_t{1} << 62}),
              HasSubstr("6 tokens"));
}

TEST(RefusesLatents, that_are_something_else_or_not_there) {
  EXPECT_THAT(refusal({}), HasSubstr("empty"));
  Bytes png(64);
  std::memcpy(png.data(), "\x89PNG\r\n\x1a\n", 8);
  refusal(png);
  EXPECT_EQ(error_of([] { read_latents("/no/such/file.npy", config_of(4)); }).code(),
            ErrorCode::kNotFound);
  EXPECT_EQ(error_of([] { latent_format_of("a.pt"); }).code(), ErrorCode::kUnsupported);
}

TEST(RefusesToWrite, what_the_format_or_the_model_cannot_hold) {
  test::TemporaryFolder folder;
  const auto refused = [&](LatentFile file, const char* name,
                           const WriteLatentsOptions& options = {},
                           const AutoencoderKLConfig& config = config_of(16)) {
    const Error error = error_of([&] { write_latents(file, folder.path(name), config, options); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_FALSE(std::filesystem::exists(folder.path(name)));
    return std::string(error.what());
  };
  const auto file = [](Shape shape, bool unscaled = false) {
    LatentFile made;
    made.latents = zeros(std::move(shape));
    made.unscaled = unscaled;
    return made;
  };
  EXPECT_THAT(refused(file({1, 2, 2, 4}), "x.safetensors"), HasSubstr("16]"));
  EXPECT_THAT(refused(file({1, 2, 16}), "x.safetensors"), HasSubstr("[1, 2, 16]"));
  EXPECT_THAT(refused(file({1, 0, 2, 16}), "x.safetensors"), HasSubstr("[1, 0, 2, 16]"));
  EXPECT_THAT(refused(file({1, 2, 2, 16}), "x.npy", {.dtype = DType::kBF16}),
              HasSubstr("F32 or F16"));
  EXPECT_THAT(refused(file({1, 2, 2, 16}), "x.safetensors", {.dtype = DType::kI32}),
              HasSubstr("I32"));
  EXPECT_THAT(refused(file({1, 2, 2, 16}), "x.latent"), HasSubstr("raw z"));
  EXPECT_THAT(refused(file({1, 2, 2, 32}, true), "x.latent", {}, config_of(32, true)),
              HasSubstr("FLUX.2"));
  EXPECT_THAT(refused(file({1, 2, 2, 16}, true), "x.latent", {.layout = LatentLayout::kNhwc}),
              HasSubstr("NCHW"));
}

}  // namespace
}  // namespace calotype
