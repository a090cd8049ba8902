// Layer by layer: how close the CPU backend comes to the machine's measured limit.
//
//   kernels [decode|encode|roundtrip] [--size N] [--threads N] [--layer TEXT] [--fast] [--runs N]
//
// Runs each distinct layer of the Z-Image / FLUX.1 autoencoder (`roundtrip`: of the embedded
// model's encoder and decoder) alone on random data, transforms of its weights included, and adds
// them up. Times are of the process's CPU, divided by the threads: on a machine that others use
// too, wall time says little. "of peak" is the arithmetic that the algorithm needs over what the
// machine's FMA units would do in that time, measured just before and just after.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "cpu/cpu_ops.h"
#include "cpu/limits.h"
#include "ops/graph.h"
#include "ops/ops.h"

namespace calotype {
namespace {

struct Options {
  std::string job = "decode";
  bool fast = false;
  int64_t size = 1024;
  int threads = default_threads(), runs = 3;
  std::string layer;
};

// A layer and how often it comes.
struct Case {
  std::string name;
  int count;
  int64_t size, in, out;  // of x
  Sampling sampling = Sampling::kSame;
  bool norm = true, residual = false;
  bool attention = false;
  int64_t kernel = 3;
};

std::vector<Case> decoder(int64_t size) {
  const int64_t s = size / 8;
  const auto same = Sampling::kSame, up = Sampling::kUpsample;
  return {
      {"conv_in 16>512", 1, s, 16, 512, same, false},
      {"conv1 512", 5, s, 512, 512},
      {"conv2 512", 5, s, 512, 512, same, true, true},
      {"attention 512", 1, s, 512, 512, same, true, true, true},
      {"upsample 512", 1, s, 512, 512, up, false},
      {"conv1 512", 3, 2 * s, 512, 512},
      {"conv2 512", 3, 2 * s, 512, 512, same, true, true},
      {"upsample 512", 1, 2 * s, 512, 512, up, false},
      {"conv1 512>256", 1, 4 * s, 512, 256},
      {"shortcut 512>256", 1, 4 * s, 512, 256, same, false, false, false, 1},
      {"conv1 256", 2, 4 * s, 256, 256},
      {"conv2 256", 3, 4 * s, 256, 256, same, true, true},
      {"upsample 256", 1, 4 * s, 256, 256, up, false},
      {"conv1 256>128", 1, 8 * s, 256, 128},
      {"shortcut 256>128", 1, 8 * s, 256, 128, same, false, false, false, 1},
      {"conv1 128", 2, 8 * s, 128, 128},
      {"conv2 128", 3, 8 * s, 128, 128, same, true, true},
      {"conv_out 128>3", 1, 8 * s, 128, 3},
  };
}

std::vector<Case> encoder(int64_t size) {
  const int64_t s = size / 8;
  const auto same = Sampling::kSame, down = Sampling::kDownsample;
  return {
      {"conv_in 3>128", 1, 8 * s, 3, 128, same, false},
      {"conv1 128", 2, 8 * s, 128, 128},
      {"conv2 128", 2, 8 * s, 128, 128, same, true, true},
      {"downsample 128", 1, 8 * s, 128, 128, down, false},
      {"conv1 128>256", 1, 4 * s, 128, 256},
      {"shortcut 128>256", 1, 4 * s, 128, 256, same, false, false, false, 1},
      {"conv1 256", 1, 4 * s, 256, 256},
      {"conv2 256", 2, 4 * s, 256, 256, same, true, true},
      {"downsample 256", 1, 4 * s, 256, 256, down, false},
      {"conv1 256>512", 1, 2 * s, 256, 512},
      {"shortcut 256>512", 1, 2 * s, 256, 512, same, false, false, false, 1},
      {"conv1 512", 1, 2 * s, 512, 512},
      {"conv2 512", 2, 2 * s, 512, 512, same, true, true},
      {"downsample 512", 1, 2 * s, 512, 512, down, false},
      {"conv1 512", 4, s, 512, 512},
      {"conv2 512", 4, s, 512, 512, same, true, true},
      {"attention 512", 1, s, 512, 512, same, true, true, true},
      {"conv_out 512>32", 1, s, 512, 32},
  };
}

std::vector<Case> roundtrip(int64_t size) {
  const int64_t s = size / 8;
  const auto same = Sampling::kSame, up = Sampling::kUpsample, down = Sampling::kDownsample;
  return {
      {"conv_in 3>64", 1, 8 * s, 3, 64, same, false},
      {"conv1 64", 3, 8 * s, 64, 64},
      {"conv2 64", 3, 8 * s, 64, 64, same, true, true},
      {"downsample 64", 1, 8 * s, 64, 64, down, false},
      {"conv1 64", 2, 4 * s, 64, 64},
      {"conv2 64", 3, 4 * s, 64, 64, same, true, true},
      {"downsample 64", 1, 4 * s, 64, 64, down, false},
      {"shortcut 64>128", 1, 2 * s, 64, 128, same, false, false, false, 1},
      {"conv1 64>128", 1, 2 * s, 64, 128},
      {"conv2 128", 3, 2 * s, 128, 128, same, true, true},
      {"downsample 128", 1, 2 * s, 128, 128, down, false},
      {"conv1 128", 7, s, 128, 128},
      {"conv2 128", 7, s, 128, 128, same, true, true},
      {"attention 128", 2, s, 128, 128, same, true, true, true},
      {"conv_out 128>32", 1, s, 128, 32},
      {"conv_in 16>128", 1, s, 16, 128, same, false},
      {"upsample 128", 1, s, 128, 128, up, false},
      {"conv1 128", 2, 2 * s, 128, 128},
      {"upsample 128", 1, 2 * s, 128, 128, up, false},
      {"shortcut 128>64", 1, 4 * s, 128, 64, same, false, false, false, 1},
      {"conv1 128>64", 1, 4 * s, 128, 64},
      {"upsample 64", 1, 4 * s, 64, 64, up, false},
      {"conv_out 64>3", 1, 8 * s, 64, 3},
  };
}

std::vector<Case> cases(const Options& o) {
  return o.job == "encode"      ? encoder(o.size)
         : o.job == "roundtrip" ? roundtrip(o.size)
                                : decoder(o.size);
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double process_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

class Floats {
 public:
  Floats(int64_t count, float deviation) : values_({count}) {
    uint32_t state = 12345;
    for (float& v : values_.values()) {  // uniform, of that deviation
      state = state * 1664525u + 1013904223u;
      v = (static_cast<float>(state >> 8) * (1.0f / 8388608.0f) - 1.0f) * 1.7320508f * deviation;
    }
  }
  TensorView view(Shape shape) const {
    return {DType::kF32, std::move(shape), values_.view().data};
  }
  float* data() { return values_.data(); }

 private:
  Tensor values_;
};

struct Measured {
  double wall = 1e30, cpu = 1e30, flop = 0, direct = 0;
  std::string algorithm;
};

Measured measure(const Case& c, Ops& ops, const Options& options) {
  const auto deviation = [](int64_t n) { return 1 / std::sqrt(static_cast<float>(n)); };
  Floats weight(c.in * c.out * 9, deviation(c.in * 9)), zeros(std::max(c.in, c.out), 0);
  const Conv2d conv{weight.view({c.out, c.in, c.kernel, c.kernel}), zeros.view({c.out}), c.in,
                    c.out, c.kernel};
  const GroupNorm norm{zeros.view({c.in}), zeros.view({c.in}), 32, 1e-6};
  const auto maker = [&](int64_t out) {
    return Conv2d{weight.view({out, 1, 1, 1}), zeros.view({out}), 1, out, 1};
  };
  Graph graph({c.size, c.size, 1});
  const Activation x = graph.conv("x", graph.input(), maker(c.in));
  const Activation residual = graph.conv("residual", graph.input(), maker(c.out));
  if (c.attention) {
    const TensorView square = weight.view({c.in, c.in}), bias = zeros.view({c.in});
    graph.attention(c.name, x, norm, {square, square, square, square, bias, bias, bias, bias});
  } else {
    Graph::ConvOptions how;
    how.sampling = c.sampling;
    if (c.norm) how.norm = &norm;
    if (c.residual) how.residual = &residual;
    graph.conv(c.name, x, conv, how);
  }
  const Node node = graph.nodes().back();
  const Extent xe = graph.extent(x), ye = graph.extent(output_of(node)),
               re = graph.extent(residual);
  const auto count = [](Extent e) { return e.h * e.w * e.c; };
  Floats in(count(xe), 1), added(c.residual ? count(re) : 1, 1),
      prepared(ops.prepared_bytes(graph, node) / 4 + 1, 0), out(count(ye), 0);
  const std::vector<GroupStats> stats(32, GroupStats{1e6, 0, 1e6});
  BandStats bands;
  bands.band_rows = ops.band_rows(graph, node);
  bands.bands = (ye.h + bands.band_rows - 1) / bands.band_rows;
  bands.batch = 1;
  bands.groups = ye.c % 32 == 0 ? 32 : 1;
  bands.values.resize(static_cast<size_t>(bands.bands * bands.groups));

  Measured m;
  m.algorithm = ops.algorithm(graph, node);
  m.flop = ops.flop_executed(graph, node);
  m.direct = flop_of(graph, node);
  const auto rows = [&](Floats& f, Extent e) { return Rows{f.data(), 0, e.h, count(e), e}; };
  for (int run = 0; run <= options.runs; run++) {
    const double wall = now(), cpu = process_seconds();
    if (c.attention) {
      AttentionCall call;
      call.node = &std::get<AttentionNode>(node);
      call.x = rows(in, xe);
      call.x_stats = stats;
      call.y = rows(out, ye);
      call.y_stats = &bands;
      ops.attention(call, {});
    } else {
      ConvCall call;
      call.node = &std::get<ConvNode>(node);
      call.x = rows(in, xe);
      call.x_stats = stats;
      if (c.residual) call.residual = rows(added, re);
      ops.prepare(graph, node, prepared.data(), [](double) {});
      call.prepared = prepared.data();
      call.y = rows(c.residual ? added : out, ye);  // a residual is written over, as in a decode
      call.y_stats = &bands;
      ops.conv(call, {});
    }
    if (run == 0) continue;  // pages are touched, caches warm
    m.wall = std::min(m.wall, now() - wall);
    m.cpu = std::min(m.cpu, (process_seconds() - cpu) / options.threads);
  }
  return m;
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i++) {
    const std::string a = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "0";
    if (a == "encode" || a == "roundtrip") o.job = a;
    if (a == "--fast") o.fast = true;
    if (a == "--size") o.size = std::atoll(value);
    if (a == "--threads") o.threads = std::atoi(value);
    if (a == "--runs") o.runs = std::atoi(value);
    if (a == "--layer") o.layer = value;
  }
  return o;
}

int run(int argc, char** argv) {
  const Options options = parse(argc, argv);
  auto ops = make_cpu_ops(options.fast ? Precision::kFast : Precision::kF32, options.threads);
  const double peak = measure_flop_per_second(options.threads);
  std::printf("%s, %d threads, %.1f GFLOP/s measured peak\n", cpu_simd_target().c_str(),
              options.threads, peak * 1e-9);
  std::printf("%-20s %5s %3s  %-16s %9s %9s %8s %8s %8s\n", "layer", "size", "", "algorithm",
              "wall ms", "cpu ms", "GFLOP/s", "of peak", "direct x");
  double wall = 0, cpu = 0, limit = 0;
  for (const Case& c : cases(options)) {
    if (c.name.find(options.layer) == std::string::npos) continue;
    const double before = measure_flop_per_second(options.threads);
    const Measured m = measure(c, *ops, options);
    const double here = (before + measure_flop_per_second(options.threads)) / 2;
    std::printf("%-20s %5lld x%2d  %-16s %9.2f %9.2f %8.1f %7.1f%% %8.2f\n", c.name.c_str(),
                static_cast<long long>(c.size), c.count, m.algorithm.c_str(), m.wall * 1e3,
                m.cpu * 1e3, m.flop / m.cpu * 1e-9, 100 * m.flop / m.cpu / here,
                m.direct / m.cpu / here);
    std::fflush(stdout);
    wall += c.count * m.wall;
    cpu += c.count * m.cpu;
    limit += c.count * m.flop / here;
  }
  std::printf("sum: wall %.2f s, cpu %.2f s, limit %.2f s, %.1f %% of peak\n", wall, cpu, limit,
              100 * limit / cpu);
  return 0;
}

}  // namespace
}  // namespace calotype

int main(int argc, char** argv) { return calotype::run(argc, argv); }
