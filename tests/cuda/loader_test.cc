#include "cuda/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>

#include "support/random.h"

namespace calotype::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

RunOptions on(Backend backend, Precision precision = Precision::kAuto) {
  RunOptions options;
  options.backend = backend;
  options.precision = precision;
  return options;
}

Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::kInternal, "no error");
}

class CudaLoader : public testing::Test {
 protected:
  void SetUp() override { unsetenv("CALOTYPE_CUDA_PLUGIN"); }
  void TearDown() override { unsetenv("CALOTYPE_CUDA_PLUGIN"); }
};

TEST_F(CudaLoader, looks_beside_the_library_then_where_it_was_installed_and_nowhere_else) {
  const std::vector<std::string> paths = cuda_plugin_paths();
  ASSERT_EQ(paths.size(), 3);
  EXPECT_THAT(paths, testing::Each(testing::StartsWith("/")));
  EXPECT_THAT(paths[0], testing::EndsWith("/libcalotype_cuda.so"));
  EXPECT_THAT(paths[1], testing::EndsWith("/../lib/libcalotype_cuda.so"));
  EXPECT_THAT(paths[2], testing::EndsWith("/libcalotype_cuda.so"));
}

TEST_F(CudaLoader, looks_nowhere_else_where_the_environment_says_where) {
  setenv("CALOTYPE_CUDA_PLUGIN", "/opt/here/plugin.so", 1);
  EXPECT_THAT(cuda_plugin_paths(), ElementsAre("/opt/here/plugin.so"));
  setenv("CALOTYPE_CUDA_PLUGIN", "plugin.so", 1);
  EXPECT_THAT(cuda_plugin_paths(), ElementsAre("./plugin.so"));
  setenv("CALOTYPE_CUDA_PLUGIN", "", 1);
  EXPECT_EQ(cuda_plugin_paths().size(), 3);
}

TEST_F(CudaLoader, says_in_one_sentence_what_cannot_be_opened) {
  const Error error = error_of([] { open_cuda_plugin("/nowhere/libcalotype_cuda.so"); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_THAT(error.what(), AllOf(HasSubstr("/nowhere/libcalotype_cuda.so"), Not(HasSubstr("\n"))));
}

TEST_F(CudaLoader, refuses_a_plugin_of_another_build) {
  const Error error = error_of([] { open_cuda_plugin(CALOTYPE_TEST_PLUGIN); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_THAT(error.what(), AllOf(HasSubstr("0.0.0 of long ago"), HasSubstr(cuda_build_id()),
                                  HasSubstr("another build"), Not(HasSubstr("\n"))));
}

TEST_F(CudaLoader, refuses_a_library_that_is_no_plugin) {
  const Error error = error_of([] { open_cuda_plugin("libc.so.6"); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_THAT(error.what(), HasSubstr("libc.so.6 is not a CUDA plugin"));
}

// In a process of its own, since the search is done once.
TEST_F(CudaLoader, says_where_it_looked_and_takes_the_cpu_where_it_may) {
  setenv("CALOTYPE_CUDA_PLUGIN", "/nowhere/libcalotype_cuda.so", 1);
  std::string reason;
  EXPECT_EQ(cuda_backend_or_null(&reason), nullptr);
  EXPECT_THAT(reason, AllOf(HasSubstr("looked for /nowhere/libcalotype_cuda.so"),
                            HasSubstr("CALOTYPE_CUDA_PLUGIN"), Not(HasSubstr("\n"))));
  const Error error = error_of([] { cuda_backend(); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_EQ(error.what(), reason);

  AutoencoderKLConfig config;
  config.block_out_channels = {8, 8};
  config.norm_num_groups = 4;
  config.down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"};
  config.up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"};
  const AutoencoderKL vae(random_model(config, 1));
  EXPECT_EQ(vae.backend_name(on(Backend::kAuto)), "CPU");
  const Tensor latents = Random(1).normal_tensor({1, 4, 4, 4});
  EXPECT_EQ(vae.decode(latents, on(Backend::kAuto)).size(), 8 * 8 * 3);
  const Error refused = error_of([&] { vae.decode(latents, on(Backend::kCuda)); });
  EXPECT_EQ(refused.code(), ErrorCode::kNotFound);
  // Without a GPU, 8 bits are those of the float picture.
  const std::vector<uint8_t> bytes = vae.decode_bytes(latents);
  const Tensor image = vae.decode(latents);
  for (size_t i = 0; i < bytes.size(); i++) {
    EXPECT_NEAR(bytes[i], 255 * std::clamp(image.data()[i] / 2 + 0.5, 0.0, 1.0), 0.5001);
  }
  // The model's config says force_upcast by default.
  const Error upcast = error_of([&] { vae.decode(latents, on(Backend::kCuda, Precision::kF16)); });
  EXPECT_EQ(upcast.code(), ErrorCode::kUnsupported);
  EXPECT_THAT(upcast.what(), HasSubstr("force_upcast"));
}

}  // namespace
}  // namespace calotype::test
