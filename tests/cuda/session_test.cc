// The GPU's session without a GPU: what it allocates, launches, waits for and says.
#include "cuda/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <thread>
#include <utility>

#include "cuda/check.h"
#include "cuda/fake_cuda.h"
#include "cuda/graphs.h"
#include "model/decoder.h"
#include "model/encoder.h"
#include "model/tensor_source.h"

namespace calotype::test {
namespace {

using testing::HasSubstr;

AutoencoderKLConfig small() {
  AutoencoderKLConfig config = family_config("sd1");
  config.block_out_channels = {32, 96, 128, 128};
  return config;
}

class CudaSession : public testing::Test {
 protected:
  Graph decoder(int64_t h, int64_t w) const { return Decoder(tensors_, small()).graph(h, w); }
  Graph encoder(int64_t h, int64_t w) const { return Encoder(tensors_, small()).graph(h, w); }

  // One call from and to host memory.
  void run(const Graph& graph, int64_t batch = 1, const ProgressCallback& progress = nullptr,
           int64_t memory = 0) {
    const Extent in = graph.extent(graph.input()), out = graph.extent(graph.output());
    const Tensor input({batch, in.h, in.w, in.c});
    Tensor output({batch, out.h, out.w, out.c});
    DeviceCall call;
    call.graph = &graph;
    call.batch = batch;
    call.input.data = const_cast<float*>(input.data());
    call.output.data = output.data();
    call.progress = &progress;
    call.memory = memory;
    session_.run(call);
  }
  // One call on device memory, which no kernel of the fake touches.
  void run_on(cudaStream_t stream, const Graph& graph) {
    DeviceCall call;
    call.graph = &graph;
    call.input.on_device = call.output.on_device = true;
    call.stream = stream;
    session_.run(call);
  }

  FakeCuda& cuda_ = new_fake_cuda();
  const Model model_ = random_model(small(), 1);
  mutable ModelTensors tensors_{model_};
  cuda::Session session_{{}, false};
};

TEST_F(CudaSession, may_be_used_by_whom_it_calls_back) {
  const Graph graph = decoder(4, 4), other = decoder(5, 3);
  int depth = 0, calls = 0;
  ProgressCallback progress = [&](const Progress&) {
    calls++;
    if (depth >= 3) return true;
    depth++;
    session_.plan(other, 2, 0);
    run(other, 2);
    run(other, 2, progress);
    // And by a thread that it waits for.
    std::thread([&] { run(graph, 3); }).join();
    return true;
  };
  run(graph, 2, progress);
  EXPECT_EQ(depth, 3);
  EXPECT_GT(calls, 60);
}

TEST_F(CudaSession, calls_back_in_order_until_it_is_told_to_stop) {
  const Graph graph = decoder(4, 4);
  std::vector<double> fractions;
  run(graph, 3, [&](const Progress& progress) {
    fractions.push_back(progress.fraction);
    return true;
  });
  EXPECT_EQ(fractions.size() % graph.nodes().size(), 0);
  EXPECT_TRUE(std::is_sorted(fractions.begin(), fractions.end()));
  EXPECT_NEAR(fractions.back(), 1, 1e-9);
  try {
    run(graph, 3, [](const Progress&) { return false; });
    ADD_FAILURE() << "was not cancelled";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
  for (int i = 0; i < 5; i++) run(graph, 3);  // no slot was lost
}

TEST_F(CudaSession, holds_no_more_than_it_was_given_and_what_it_planned) {
  const Graph decode = decoder(9, 7), large = decoder(18, 14), encode = encoder(72, 56);
  for (const Graph* graph : {&large, &decode, &encode, &decode}) {
    const DevicePlan whole = session_.plan(*graph, 3, 0);
    const DevicePlan least = session_.plan(*graph, 3, whole.minimum_bytes);
    EXPECT_LE(least.peak_bytes, whole.minimum_bytes);
    EXPECT_LT(least.peak_bytes, whole.peak_bytes);
    EXPECT_THROW(session_.plan(*graph, 3, whole.minimum_bytes - 1), Error);
    for (const DevicePlan& plan : {whole, least}) {
      cuda_.peak = 0;
      run(*graph, 3, nullptr, plan.peak_bytes);
      EXPECT_LE(cuda_.peak, plan.peak_bytes);
      EXPECT_LE(cuda_.used, plan.peak_bytes);
    }
  }
}

TEST_F(CudaSession, takes_three_quarters_of_what_is_free_unless_told) {
  const Graph graph = decoder(9, 7);
  const DevicePlan one = session_.plan(graph, 1, 0);
  EXPECT_EQ(one.memory_bytes, cuda_.total / 4 * 3);
  EXPECT_GT(one.peak_bytes, one.minimum_bytes);
  EXPECT_EQ(one.host_bytes, 0);
  run(graph);
  EXPECT_EQ(session_.plan(graph, 1, 0).memory_bytes, cuda_.total / 4 * 3);  // what it holds is its
  EXPECT_EQ(session_.plan(graph, 1, 12345678).memory_bytes, 12345678);
  cuda_.total = cuda_.used + 4096;  // others took the rest
  cuda_.peak = 0;
  EXPECT_THROW(run(decoder(90, 70)), Error);
  for (const int64_t bytes : {one.peak_bytes, one.minimum_bytes}) {
    cuda_.total = bytes * 4 / 3 + 4;
    run(graph, 5);
    EXPECT_LE(cuda_.peak, bytes);
  }
}

// Every strip that goes up was written before, and no bound is passed.
TEST_F(CudaSession, sends_through_host_memory_what_does_not_fit) {
  for (const Graph& graph :
       {decoder(9, 7), decoder(21, 34), encoder(104, 72), encoder(200, 136), encoder(56, 264)}) {
    const DevicePlan whole = session_.plan(graph, 1, 0);
    ASSERT_LT(whole.minimum_bytes, whole.peak_bytes);
    EXPECT_EQ(whole.flop_again, 0);
    for (int part = 0; part < 3; part++) {
      const int64_t bound =
          whole.minimum_bytes + (whole.peak_bytes - whole.minimum_bytes) * part / 3;
      const DevicePlan plan = session_.plan(graph, 1, bound);
      EXPECT_LE(plan.peak_bytes, bound);
      EXPECT_GE(plan.flop_again, 0);
      EXPECT_GT(plan.flop_again + static_cast<double>(plan.host_bytes), 0);
      cuda_.peak = 0;
      run(graph, 2, nullptr, bound);
      EXPECT_LE(cuda_.peak, bound);
      EXPECT_EQ(cuda_.unwritten, 0);
    }
  }
}

TEST_F(CudaSession, tells_of_strips_and_stops_when_told) {
  const Graph graph = decoder(21, 34);
  const int64_t bound = session_.plan(graph, 1, 0).minimum_bytes;
  std::vector<double> fractions;
  run(
      graph, 2,
      [&](const Progress& progress) {
        fractions.push_back(progress.fraction);
        return true;
      },
      bound);
  EXPECT_EQ(fractions.size(), 2 * graph.nodes().size());
  EXPECT_TRUE(std::is_sorted(fractions.begin(), fractions.end()));
  EXPECT_NEAR(fractions.back(), 1, 1e-9);
  EXPECT_THROW(run(
                   graph, 2, [](const Progress&) { return false; }, bound),
               Error);
  run(graph, 2, nullptr, bound);
}

// How long what was logged takes where streams run side by side and events hold them up: a copy its
// bytes, a kernel as many as `kernel`. And all of it, one after the other.
std::pair<double, double> times_of(const std::vector<std::string>& log, double kernel) {
  std::map<std::string, double> streams, events;
  double sum = 0, end = 0;
  for (const std::string& line : log) {
    std::istringstream words(line);
    std::string what, first, second;
    words >> what >> first >> second;
    if (what == "record") {
      events[first] = streams[second];
    } else if (what == "hold") {
      streams[second] = std::max(streams[second], events[first]);
    } else {
      const bool is_copy = what == "up" || what == "down";
      const double time = is_copy ? std::stod(first) : kernel;
      double& stream = streams[is_copy ? second : first];
      stream += time;
      sum += time;
      end = std::max(end, stream);
    }
  }
  return {end, sum};
}

TEST_F(CudaSession, computes_and_copies_both_ways_at_once) {
  const Graph graph = decoder(42, 34);
  const DevicePlan whole = session_.plan(graph, 1, 0);
  const int64_t bound = whole.minimum_bytes + (whole.peak_bytes - whole.minimum_bytes) / 10;
  run(graph, 1, nullptr, bound);  // weights are there
  cuda_.log.clear();
  run(graph, 1, nullptr, bound);
  int64_t up = 0, down = 0, kernels = 0;
  for (const std::string& line : cuda_.log) {
    up += line.starts_with("up ");
    down += line.starts_with("down ");
    kernels += line.starts_with("hopper_conv ");
  }
  ASSERT_GT(up, 50);
  ASSERT_GT(down, 20);
  const auto [copies, all_copies] = times_of(cuda_.log, 0);
  EXPECT_LT(copies, 0.85 * all_copies);  // up beside down
  // As if computing took as long as copying.
  const auto [time, sum] = times_of(cuda_.log, all_copies / static_cast<double>(kernels));
  EXPECT_LT(time, 0.75 * sum);
}

TEST_F(CudaSession, gives_back_what_it_only_keeps_before_it_makes_a_smaller_plan) {
  const Graph decode = decoder(9, 7), encode = encoder(72, 56);
  run(encode, 2);
  const int64_t bound = cuda_.total;
  // Others took so much that both halves' weights have no place, whatever the bound allows.
  cuda_.total = session_.plan(decode, 2, bound).peak_bytes;
  run(decode, 2, nullptr, bound);
  EXPECT_LE(cuda_.used, cuda_.total);
  cuda_.total = session_.plan(decode, 1, bound).peak_bytes;
  run(decode, 8, nullptr, bound);
  EXPECT_LE(cuda_.used, cuda_.total);
}

TEST_F(CudaSession, expects_a_time_only_where_the_rate_was_measured) {
  const Graph graph = decoder(9, 7);
  const DevicePlan plan = session_.plan(graph, 2, 0);
  EXPECT_GT(plan.flop_executed, 0);
  EXPECT_NEAR(plan.seconds, plan.flop_executed / 618e12, plan.seconds * 0.01);
  cuda::Session exact{{.device = 0, .precision = Precision::kF32}, false};
  EXPECT_EQ(exact.plan(graph, 2, 0).seconds, 0);
}

// The same handle may stand for another stream: of each thread, or one that was made anew.
TEST_F(CudaSession, orders_calls_by_what_was_launched_not_by_the_names_of_streams) {
  const Graph graph = decoder(4, 4);
  run_on(cudaStreamPerThread, graph);
  const std::vector<std::string> log = cuda_.log;
  const std::string record = log.back();  // where the arena is free again
  ASSERT_THAT(record, testing::StartsWith("record "));
  cuda_.log.clear();
  run_on(cudaStreamPerThread, graph);
  EXPECT_EQ(cuda_.log.front(), "hold" + record.substr(6));
  EXPECT_EQ(cuda_.log.back(), record);
}

TEST_F(CudaSession, names_the_layer_of_an_error_and_forgets_it) {
  const Graph graph = decoder(4, 4);
  run(graph);
  const auto message = [&] {
    try {
      run(graph);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  cuda_.failing = "apply_norm";
  EXPECT_EQ(message(),
            "CUDA: launch of apply_norm at decoder.mid_block.attentions.0 failed: as the test says "
            "(cudaErrorOfTheFake)");
  cuda_.failing = "pack_conv";
  try {
    run(encoder(32, 32));
    ADD_FAILURE() << "weights were packed";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("at encoder.conv_in failed"));
  }
  cuda_.failing.clear();
  try {
    cuda::check(cudaErrorInvalidValue, "cudaSomething");
    ADD_FAILURE() << "is an error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "CUDA: cudaSomething failed: as the test says (cudaErrorOfTheFake)");
  }
  const cuda::LayerScope layer("decoder.conv_in");
  try {
    cuda::check_driver(CUDA_ERROR_INVALID_VALUE, "cuTensorMapEncodeTiled");
    ADD_FAILURE() << "is an error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "CUDA: cuTensorMapEncodeTiled at decoder.conv_in failed: invalid argument "
                 "(unknown error)");
  }
}

}  // namespace
}  // namespace calotype::test
