// Every operation on a GPU, judged by the float64 reference. Needs a GPU: `make test-cuda`.
#include <gtest/gtest.h>

#include <cstdlib>

#include "cuda/graphs.h"
#include "support/compare.h"

namespace calotype::test {
namespace {

// A set of kernels: a precision, and whether those of sm_90a may be used.
struct Kernels {
  std::string name;
  Precision precision;
  bool portable;
  double tolerance;  // relative RMS of a few operations in a row
};

std::ostream& operator<<(std::ostream& to, const Kernels& kernels) { return to << kernels.name; }

class GpuOps : public testing::TestWithParam<Kernels> {
 protected:
  void SetUp() override {
    setenv("CALOTYPE_CUDA_KERNELS", GetParam().portable ? "portable" : "auto", 1);
    session_ = cuda_backend().open({0, GetParam().precision});
  }

  void expect_like_reference(const Graph& graph, int64_t batch, double tolerance_factor = 1,
                             double input_mean = 0) {
    const Extent in = graph.extent(graph.input());
    const Tensor input = weights_.random().normal_tensor({batch, in.h, in.w, in.c}, 1, input_mean);
    if (!part_.has_next()) return;
    const std::vector<double> truth = run_reference(graph, batch, input);
    const Tensor result = run_device(*session_, graph, batch, input);
    const Difference d = difference(result.values(), std::span<const double>(truth));
    EXPECT_LT(d.relative_rms, tolerance_factor * GetParam().tolerance)
        << "batch " << batch << ", input " << in.h << "x" << in.w << "x" << in.c;
    if (part_.is_split()) return;
    const Tensor again = run_device(*session_, graph, batch, input);
    EXPECT_TRUE(std::equal(result.values().begin(), result.values().end(), again.values().begin()))
        << "not the same from run to run";
  }

  Weights weights_{test_seed(1)};
  std::shared_ptr<DeviceSession> session_;
  Part part_;
};

INSTANTIATE_TEST_SUITE_P(Kernels, GpuOps,
                         testing::Values(Kernels{"f32", Precision::kF32, false, 3e-6},
                                         Kernels{"bf16", Precision::kBF16, false, 1.2e-2},
                                         Kernels{"bf16_portable", Precision::kBF16, true, 1.2e-2},
                                         Kernels{"fp8", Precision::kFP8, false, 5e-2},
                                         Kernels{"f16", Precision::kF16, false, 2e-3},
                                         Kernels{"f16_portable", Precision::kF16, true, 2e-3}),
                         [](const auto& test) { return test.param.name; });

struct Size {
  int64_t batch, h, w;
};
constexpr Size kSizes[] = {{1, 1, 1}, {2, 3, 5}, {1, 16, 16}, {3, 17, 33}, {2, 8, 40}};

TEST_P(GpuOps, convolves_any_channels_and_sizes) {
  for (const auto& [in, out] : std::vector<std::pair<int, int>>{
           {3, 3}, {4, 128}, {16, 64}, {48, 6}, {96, 96}, {128, 160}, {200, 8}, {64, 40}}) {
    for (const int64_t kernel : {1, 3}) {
      for (const Size& size : kSizes) {
        Graph graph({size.h, size.w, in});
        graph.set_output(graph.conv("only", graph.input(), weights_.conv(in, out, kernel)));
        SCOPED_TRACE(testing::Message() << in << " to " << out << " channels, kernel " << kernel);
        expect_like_reference(graph, size.batch);
      }
    }
  }
}

TEST_P(GpuOps, convolves_into_activations_of_any_width) {
  for (const int64_t middle : {4, 48, 96, 128, 192, 384}) {
    for (const Size& size : kSizes) {
      Graph graph({size.h, size.w, 16});
      const Activation x = graph.conv("first", graph.input(), weights_.conv(16, middle, 3));
      graph.set_output(graph.conv("last", x, weights_.conv(middle, 3, 3)));
      SCOPED_TRACE(testing::Message() << middle << " channels between");
      expect_like_reference(graph, size.batch);
    }
  }
}

TEST_P(GpuOps, norms_before_every_kind_of_convolution) {
  struct Kind {
    Sampling sampling;
    int64_t kernel;
  };
  for (const Kind kind : {Kind{Sampling::kSame, 3}, Kind{Sampling::kSame, 1},
                          Kind{Sampling::kUpsample, 3}, Kind{Sampling::kDownsample, 3}}) {
    for (const auto& [channels, groups] :
         std::vector<std::pair<int64_t, int>>{{128, 32}, {96, 32}, {256, 32}, {48, 4}, {6, 2}}) {
      for (const Size& size : kSizes) {
        if (kind.sampling == Sampling::kDownsample && (size.h < 2 || size.w < 2)) continue;
        Graph graph({size.h, size.w, 8});
        const Activation x = graph.conv("first", graph.input(), weights_.conv(8, channels, 3));
        const GroupNorm norm = weights_.norm(channels, groups);
        const Activation y = graph.conv("middle", x, weights_.conv(channels, 40, kind.kernel),
                                        {.sampling = kind.sampling, .norm = &norm});
        graph.set_output(graph.conv("last", y, weights_.conv(40, 3, 3)));
        SCOPED_TRACE(testing::Message()
                     << channels << " channels, sampling " << static_cast<int>(kind.sampling)
                     << ", kernel " << kind.kernel);
        // One or a few pixels have groups of a few values, whose norm amplifies rounding.
        expect_like_reference(graph, size.batch, size.h * size.w < 4 ? 8 : 1);
      }
    }
  }
}

TEST_P(GpuOps, samples_up_and_down_without_a_norm) {
  for (const Sampling sampling : {Sampling::kUpsample, Sampling::kDownsample}) {
    for (const int64_t channels : {24, 128, 256}) {
      for (const Size& size : {Size{2, 3, 5}, Size{1, 16, 16}, Size{2, 17, 34}, Size{1, 34, 17}}) {
        Graph graph({size.h, size.w, 4});
        const Activation x = graph.conv("first", graph.input(), weights_.conv(4, channels, 3));
        const Activation y =
            graph.conv("middle", x, weights_.conv(channels, channels, 3), {.sampling = sampling});
        const GroupNorm norm = weights_.norm(channels, 8);
        graph.set_output(graph.conv("last", y, weights_.conv(channels, 3, 3), {.norm = &norm}));
        SCOPED_TRACE(testing::Message() << channels << " channels");
        expect_like_reference(graph, size.batch, 1.5);
      }
    }
  }
}

// Like the network's resnets, two in a row so that memory is reused.
TEST_P(GpuOps, adds_residuals_and_shortcuts) {
  for (const auto& [in, out] : std::vector<std::pair<int64_t, int64_t>>{
           {128, 128}, {256, 128}, {64, 128}, {96, 48}, {128, 256}, {40, 40}, {320, 128}}) {
    for (const Size& size : kSizes) {
      if (size.h * size.w < 4) continue;
      Graph graph({size.h, size.w, 4});
      Activation x = graph.conv("first", graph.input(), weights_.conv(4, in, 3));
      int64_t width = in;
      for (int i = 0; i < 2; i++) {
        const GroupNorm norm1 = weights_.norm(width, 8), norm2 = weights_.norm(out, 8);
        const Conv2d shortcut = weights_.conv(width, out, 1);
        const Activation h = graph.conv("conv1", x, weights_.conv(width, out, 3), {.norm = &norm1});
        x = graph.conv(
            "conv2", h, weights_.conv(out, out, 3),
            {.norm = &norm2, .residual = &x, .shortcut = width == out ? nullptr : &shortcut});
        width = out;
      }
      const GroupNorm norm = weights_.norm(out, 8);
      graph.set_output(graph.conv("last", x, weights_.conv(out, 3, 3), {.norm = &norm}));
      SCOPED_TRACE(testing::Message() << in << " to " << out << " channels");
      expect_like_reference(graph, size.batch, 2);
    }
  }
}

// Sizes of more tiles than a GPU has multiprocessors, so that blocks compute several, also of the
// next picture.
TEST_P(GpuOps, computes_more_tiles_than_there_are_processors) {
  for (const Size& size : {Size{1, 200, 264}, Size{3, 104, 136}}) {
    Graph graph({size.h, size.w, 4});
    const Activation x = graph.conv("first", graph.input(), weights_.conv(4, 200, 3));
    const GroupNorm norm1 = weights_.norm(200, 8), norm2 = weights_.norm(72, 4);
    const Conv2d shortcut = weights_.conv(200, 72, 1);
    const Activation h = graph.conv("conv1", x, weights_.conv(200, 72, 3), {.norm = &norm1});
    const Activation y = graph.conv("conv2", h, weights_.conv(72, 72, 3),
                                    {.norm = &norm2, .residual = &x, .shortcut = &shortcut});
    const GroupNorm norm = weights_.norm(72, 4);
    const Activation z =
        graph.conv("conv3", y, weights_.conv(72, 72, 3), {.norm = &norm, .residual = &y});
    graph.set_output(graph.conv("last", z, weights_.conv(72, 3, 3), {.norm = &norm}));
    expect_like_reference(graph, size.batch, 2);
  }
}

TEST_P(GpuOps, attends_over_any_number_of_tokens) {
  for (const int64_t channels : {32, 128, 512}) {
    for (const Size& size :
         {Size{1, 2, 2}, Size{2, 3, 5}, Size{3, 16, 16}, Size{2, 17, 21}, Size{1, 40, 24}}) {
      Graph graph({size.h, size.w, 4});
      const Activation x = graph.conv("first", graph.input(), weights_.conv(4, channels, 3));
      const Activation y = graph.attention("attention", x, weights_.norm(channels, 8),
                                           weights_.attention(channels, 3));
      const GroupNorm norm = weights_.norm(channels, 8);
      graph.set_output(graph.conv("last", y, weights_.conv(channels, 3, 3), {.norm = &norm}));
      SCOPED_TRACE(testing::Message() << channels << " channels");
      expect_like_reference(graph, size.batch, 3);
    }
  }
}

// Scores in the hundreds, far below |q| |k|: the bound of hopper_attention fails for such rows.
TEST_P(GpuOps, attends_where_scores_are_huge) {
  Graph graph({12, 11, 4});
  const Activation x = graph.conv("first", graph.input(), weights_.conv(4, 64, 3));
  const Activation y =
      graph.attention("attention", x, weights_.norm(64, 8), weights_.attention(64, 1500));
  graph.set_output(graph.conv("last", y, weights_.conv(64, 3, 3)));
  // The winner of a softmax this sharp may be another one after rounding to 16 bits.
  expect_like_reference(graph, 2, GetParam().precision == Precision::kF32 ? 300 : 20);
}

// Sums of squares would lose all digits.
TEST_P(GpuOps, norms_groups_whose_mean_is_large) {
  Graph graph({40, 40, 4});
  const Activation x = graph.conv("first", graph.input(), weights_.conv(4, 128, 3, 300));
  const GroupNorm norm = weights_.norm(128, 32);
  graph.set_output(graph.conv("last", x, weights_.conv(128, 3, 3), {.norm = &norm}));
  // Values near 300 are rounded to 1 (bf16), 0.25 (f16) or 3e-5 (f32), a spread of 1 beside it.
  const double factor = GetParam().precision == Precision::kF32    ? 30
                        : GetParam().precision == Precision::kBF16 ? 60
                                                                   : 70;
  expect_like_reference(graph, 2, factor);
}

}  // namespace
}  // namespace calotype::test
