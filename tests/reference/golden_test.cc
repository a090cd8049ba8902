// The network on the float64 reference, and the latent spaces, against what diffusers computed in
// float64 (tests/goldens/make.py). Nothing is rounded to float32 on the way.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "model/decoder.h"
#include "model/encoder.h"
#include "model/tensor_source.h"
#include "support/arrays.h"
#include "support/compare.h"
#include "support/plain_run.h"

namespace calotype::test {
namespace {

constexpr double kBound = 1e-10;  // relative RMS in float64
constexpr double kFloatBound = 1e-6;

std::vector<std::string> golden_files() {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(CALOTYPE_GOLDENS)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

class Golden : public testing::TestWithParam<std::string> {
 protected:
  // What `network` (a Decoder or an Encoder) makes of `in` (NCHW), against `out`.
  template <class Network>
  void expect_equal(const Network& network, const std::string& in, const std::string& out) {
    const Array x = nchw_to_nhwc(file_.array(in)), truth = nchw_to_nhwc(file_.array(out));
    const Graph graph = network.graph(x.shape[1], x.shape[2]);
    const Extent y = graph.extent(graph.output());
    ASSERT_EQ((Shape{x.shape[0], y.h, y.w, y.c}), truth.shape) << out;
    const std::vector<double> result = run_reference(graph, x.shape[0], x.values);
    const double error = difference(std::span<const double>(result), truth.values).relative_rms;
    std::printf("%s: relative RMS %.1e\n", out.c_str(), error);
    EXPECT_LE(error, kBound) << out << " of shape " << shape_string(truth.shape);
  }
  // Runs check("decode.0", "decode.1", …) for as many as the file has.
  template <class Check>
  void for_each_case(const std::string& half, const std::string& input, Check check) {
    int cases = 0;
    for (; file_.contains(half + std::to_string(cases) + input); cases++) {
      check(half + std::to_string(cases));
    }
    EXPECT_GT(cases, 0) << "the golden has no case of " << half;
  }

  ArrayFile file_{GetParam()};
  Model model_ = file_.model();
};

TEST_P(Golden, decodes_as_diffusers) {
  ModelTensors tensors(model_);
  const Decoder decoder(tensors, model_.config);
  for_each_case("decode.", ".z", [&](const std::string& name) {
    expect_equal(decoder, name + ".z", name + ".image");
  });
}

TEST_P(Golden, encodes_to_the_moments_of_diffusers) {
  ModelTensors tensors(model_);
  const Encoder encoder(tensors, model_.config);
  for_each_case("encode.", ".image", [&](const std::string& name) {
    expect_equal(encoder, name + ".image", name + ".moments");
  });
}

TEST_P(Golden, scales_latents_as_the_pipelines_of_diffusers) {
  const AutoencoderKL vae(model_);
  const Array z = nchw_to_nhwc(file_.array("scale.z")),
              truth = nchw_to_nhwc(file_.array("scale.latents"));
  const Tensor latents = vae.scale(rounded(z));
  ASSERT_EQ(latents.shape(), truth.shape);
  EXPECT_LE(difference(latents.values(), truth.values).relative_rms, kFloatBound);

  const Tensor back = vae.unscale(rounded(truth));
  ASSERT_EQ(back.shape(), z.shape);
  EXPECT_LE(difference(back.values(), z.values).relative_rms, kFloatBound);
}

INSTANTIATE_TEST_SUITE_P(Model, Golden, testing::ValuesIn(golden_files()), [](const auto& golden) {
  return std::filesystem::path(golden.param).stem().string();
});

TEST(Goldens, are_there) { EXPECT_EQ(golden_files().size(), 8u); }

}  // namespace
}  // namespace calotype::test
