// The real plugin on a machine without a GPU: it opens, and says what is missing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cuda/loader.h"

namespace calotype::test {
namespace {

TEST(CudaPlugin, is_of_this_build_and_says_in_one_sentence_what_the_machine_lacks) {
  try {
    const std::unique_ptr<DeviceBackend> backend = open_cuda_plugin(CALOTYPE_CUDA_PLUGIN_FILE);
    EXPECT_GT(backend->device_count(), 0);  // a machine with a GPU
    EXPECT_THROW(backend->open({.device = backend->device_count()}), Error);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("NVIDIA"),
                                             testing::Not(testing::HasSubstr("\n"))));
  }
}

}  // namespace
}  // namespace calotype::test
