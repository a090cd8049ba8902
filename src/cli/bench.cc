// calotype bench: how long a decode or an encode takes, and how far that is from the machine's
// limits.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <random>

#include "calotype/machine.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/report.h"

namespace calotype::cli {
namespace {

constexpr int64_t kMostRuns = 100'000;

struct BenchArgs {
  std::string job = "decode";
  ModelArgs model;
  RunArgs run;
  ReportArgs report;
  std::optional<Size> size;
  int64_t runs = 3, seed = -1;  // seed < 0: not given
  bool layers = false;

  bool random() const { return seed >= 0 || model.only_family(); }
  std::string model_name() const {
    if (!random()) return model.name();
    return random_family() + ", random weights of seed " + std::to_string(random_seed());
  }
  int64_t random_seed() const { return std::max<int64_t>(seed, 0); }
  std::string random_family() const { return model.family.empty() ? "flux" : model.family; }
};

struct BenchResult {
  std::vector<double> seconds;  // of each run
  double median = 0;
  Plan plan;
  std::vector<LayerReport> layers;  // of the run that took the median
  double flop_executed = 0;
  int64_t peak_resident_bytes = 0;  // of the process, everything included
  MachineLimits limits;
  Machine machine;
  std::string simd;  // of the CPU
  int threads = 0;
};

// VmHWM of /proc/self/status; 0 where there is none.
int64_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  std::string key;
  while (status >> key) {
    int64_t kibibytes = 0;
    if (key == "VmHWM:" && status >> kibibytes) return kibibytes * 1024;
  }
  return 0;
}

double median_of(std::vector<double> values) {
  std::ranges::sort(values);
  const size_t n = values.size();
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

// Values as latents have them, or pixels; the time of a network does not depend on them.
Tensor random_input(const Shape& shape, bool latents) {
  Tensor tensor(shape);
  std::minstd_rand generator(1);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (float& value : tensor.values()) value = latents ? normal(generator) : uniform(generator);
  return tensor;
}

AutoencoderKL load_model(const BenchArgs& args) {
  if (!args.random()) return args.model.load();
  return AutoencoderKL(
      random_model(family_config(args.random_family()), static_cast<uint64_t>(args.random_seed())));
}

Plan plan_for(const AutoencoderKL& model, const BenchArgs& args, const RunOptions& options) {
  const int64_t factor = model.config().spatial_factor();
  const Size size = args.size.value_or(Size{1024, 1024});
  const int64_t height = (size.height + factor - 1) / factor * factor;
  const int64_t width = (size.width + factor - 1) / factor * factor;
  return args.job == "decode" ? model.plan_decode(1, height, width, options)
                              : model.plan_encode(1, height, width, options);
}

BenchResult measure(const AutoencoderKL& model, const BenchArgs& args) {
  BenchResult result;
  RunOptions options = args.run.options();
  result.plan = plan_for(model, args, options);
  const bool decodes = args.job == "decode";
  const Tensor input = random_input(decodes ? result.plan.latents : result.plan.image, decodes);
  std::vector<std::vector<LayerReport>> layers(static_cast<size_t>(args.runs));
  ProgressMeter meter("bench " + args.job, args.report.no_progress());
  for (int64_t run = 0; run < args.runs; ++run) {
    const auto share = [&](int64_t done) {
      return static_cast<double>(done) / static_cast<double>(args.runs);
    };
    options.progress = meter.part(share(run), share(run + 1));
    options.layers = &layers[static_cast<size_t>(run)];
    const Stopwatch watch;
    interruptible([&] {
      return decodes ? model.decode(input, options).size()
                     : model.encode(input, options).mean.size();
    });
    result.seconds.push_back(watch.seconds());
  }
  result.median = median_of(result.seconds);
  const auto typical = std::ranges::min_element(
      result.seconds, {}, [&](double seconds) { return std::abs(seconds - result.median); });
  result.layers = layers[static_cast<size_t>(typical - result.seconds.begin())];
  for (const LayerReport& layer : result.layers) result.flop_executed += layer.flop_executed;
  result.peak_resident_bytes = peak_resident_bytes();  // before the limits are measured
  result.threads = options.threads > 0 ? options.threads : default_threads();
  result.machine = machine_of(model, args.run);
  // Those of a GPU are its plugin's to measure.
  if (result.machine.backend == "cuda") return result;
  result.simd = cpu_simd_target();
  result.limits = measure_limits(result.threads);
  return result;
}

// What the machine's limits would allow, over what it took; NaN (in JSON null) where they are not
// known.
double fraction_of_limit(const LayerReport& layer, const MachineLimits& limits) {
  if (limits.flop_per_second == 0) return std::numeric_limits<double>::quiet_NaN();
  const double seconds =
      std::max(layer.flop_executed / limits.flop_per_second, layer.bytes / limits.bytes_per_second);
  return seconds / layer.seconds;
}

Json layers_json(const BenchResult& result) {
  Json layers = Json::array();
  for (const LayerReport& layer : result.layers) {
    layers.push_back({{"name", layer.name},
                      {"algorithm", layer.algorithm},
                      {"means", layer.means},
                      {"seconds", layer.seconds},
                      {"wait_s", layer.wait_seconds},
                      {"flop", layer.flop},
                      {"flop_executed", layer.flop_executed},
                      {"bytes", layer.bytes},
                      {"gflop_per_s", layer.flop / layer.seconds * 1e-9},
                      {"executed_gflop_per_s", layer.flop_executed / layer.seconds * 1e-9},
                      {"gbyte_per_s", layer.bytes / layer.seconds * 1e-9},
                      {"fraction_of_limit", fraction_of_limit(layer, result.limits)}});
  }
  return layers;
}

Json document(const BenchArgs& args, const BenchResult& result) {
  const Shape& image = result.plan.image;
  const double megapixels = static_cast<double>(image.at(1) * image.at(2)) * 1e-6;
  Json bench = {{"command", "bench"},
                {"job", args.job},
                {"model", args.model_name()},
                {"width", image.at(2)},
                {"height", image.at(1)},
                {"backend", args.run.backend},
                {"precision", args.run.precision},
                {"simd", cpu_simd_target()},
                {"threads", result.threads},
                {"runs", args.runs},
                {"median_s", result.median},
                {"min_s", std::ranges::min(result.seconds)},
                {"max_s", std::ranges::max(result.seconds)},
                {"runs_s", result.seconds},
                {"megapixels_per_s", megapixels / result.median},
                {"flop", result.plan.flop},
                {"flop_executed", result.flop_executed},
                {"gflop_per_s", result.plan.flop / result.median * 1e-9},
                {"executed_gflop_per_s", result.flop_executed / result.median * 1e-9},
                {"fma_peak_gflop_per_s", result.limits.flop_per_second * 1e-9},
                {"memory_gbyte_per_s", result.limits.bytes_per_second * 1e-9},
                {"fraction_of_fma_peak",
                 result.flop_executed / result.median / result.limits.flop_per_second},
                {"peak_resident_bytes", result.peak_resident_bytes},
                {"planned_peak_bytes", result.plan.planned_peak_bytes},
                {"minimum_bytes", result.plan.minimum_bytes},
                {"memory_bytes", result.plan.memory_bytes},
                {"spilled_bytes", result.plan.spilled_bytes},
                {"flop_again", result.plan.flop_again},
                {"expected_s", result.plan.seconds}};
  if (args.layers) bench["layers"] = layers_json(result);
  return bench;
}

std::string percent(double fraction) {
  return std::isnan(fraction) ? "-" : printf_string("%.1f%%", 100 * fraction);
}

void print_layers(const Report& report, const BenchResult& result) {
  size_t width = 5, algorithm_width = 9;
  for (const LayerReport& layer : result.layers) {
    width = std::max(width, layer.name.size());
    algorithm_width = std::max(algorithm_width, layer.algorithm.size());
  }
  const auto name = static_cast<int>(width), algorithm = static_cast<int>(algorithm_width);
  report.line(printf_string("%-*s  %-*s %-10s %9s %7s %6s %8s %9s %7s %9s", name, "layer",
                            algorithm, "algorithm", "result", "ms", "waits", "share", "GFLOP/s",
                            "executed", "GB/s", "of limit"));
  for (const LayerReport& layer : result.layers) {
    report.line(printf_string(
        "%-*s  %-*s %-10s %9.2f %7.2f %5.1f%% %8.1f %9.1f %7.2f %9s", name, layer.name.c_str(),
        algorithm, layer.algorithm.c_str(), layer.means.c_str(), 1e3 * layer.seconds,
        1e3 * layer.wait_seconds, 100 * layer.seconds / result.median,
        layer.flop / layer.seconds * 1e-9, layer.flop_executed / layer.seconds * 1e-9,
        layer.bytes / layer.seconds * 1e-9,
        percent(fraction_of_limit(layer, result.limits)).c_str()));
  }
}

void print(const Report& report, const BenchArgs& args, const BenchResult& result) {
  const Shape& image = result.plan.image;
  const double megapixels = static_cast<double>(image.at(1) * image.at(2)) * 1e-6;
  std::string machine = result.machine.name;
  if (!result.simd.empty()) {
    machine += ", " + result.simd + ", " + std::to_string(result.threads) +
               (result.threads == 1 ? " thread" : " threads");
  }
  report.line(args.job + " " + format_size(image.at(2), image.at(1)) + ": " + args.model_name() +
              "; " + machine);
  report.line(printf_string(
      "median %s of %lld (%s to %s), %.3f megapixels/s", format_seconds(result.median).c_str(),
      static_cast<long long>(args.runs), format_seconds(std::ranges::min(result.seconds)).c_str(),
      format_seconds(std::ranges::max(result.seconds)).c_str(), megapixels / result.median));
  const double executed_per_s = result.flop_executed / result.median;
  const bool limits_known = result.limits.flop_per_second > 0;
  report.line(printf_string(
      "%s directly, %.1f GFLOP/s; %s executed, %.1f GFLOP/s%s",
      format_flop(result.plan.flop).c_str(), result.plan.flop / result.median * 1e-9,
      format_flop(result.flop_executed).c_str(), executed_per_s * 1e-9,
      limits_known ? printf_string(": %.0f %% of the FMA peak",
                                   100 * executed_per_s / result.limits.flop_per_second)
                         .c_str()
                   : ""));
  if (limits_known) {
    report.line(printf_string("measured limits: %.1f GFLOP/s float32, %.1f GB/s of memory",
                              result.limits.flop_per_second * 1e-9,
                              result.limits.bytes_per_second * 1e-9));
  }
  const Plan& plan = result.plan;
  report.line("peak resident memory " + format_bytes(result.peak_resident_bytes) + ", planned " +
              format_bytes(plan.planned_peak_bytes) + ", smallest budget " +
              format_bytes(plan.minimum_bytes) + "; expected " + format_seconds(plan.seconds) +
              ", " + format_flop(plan.flop_again) + " computed again, " +
              format_bytes(plan.spilled_bytes) + " spilled");
  if (args.layers) print_layers(report, result);
}

int run(const BenchArgs& args) {
  const Report report(args.report.quiet, args.report.json);
  args.run.options();  // refuses what makes no sense before the model is read
  const AutoencoderKL model = load_model(args);
  machine_of(model, args.run);  // refuses what the machine cannot do
  const BenchResult result = measure(model, args);
  print(report, args, result);
  report.json(document(args, result));
  return 0;
}

}  // namespace

void add_bench(CLI::App& program, Action& action) {
  const auto args = std::make_shared<BenchArgs>();
  CommandLine line(program, "bench",
                   "Measure times, memory, and the distance from the machine's limits",
                   "calotype bench [decode|encode] [--size WxH] [--runs N] [OPTIONS]", R"(
  calotype bench
  calotype bench decode --family flux --size 1024x1024 --layers
  calotype bench encode --size 512x512 --model z-image --runs 5 --threads 2 --json

With --family and no --model the weights are random: the time does not depend on
them. A run is one whole job from memory to memory, weight transforms included;
there is no run to warm up. Limits are measured on the spot: fused multiply-adds from
registers, and reading memory. A layer's limit is the slower of the two for what
it executes and moves; its time includes its waits for the scratch file.)");
  line.choice("JOB", args->job, {"decode", "encode"}, "Default: decode");
  line.size("--size", args->size, "Of the picture (default 1024x1024)");
  line.number("--runs", args->runs, 1, kMostRuns, "Default: 3");
  line.flag("--layers", args->layers, "Also print each layer");
  line.number("--random", args->seed, 0, INT64_MAX,
              "Instead of a model: random bf16 weights of this seed, with the\n"
              "config of --family (default flux)",
              "SEED");
  args->report.add(line, "Print errors and --json only");
  args->model.add(line);
  line.exclude("--random", "--model");
  args->run.add(line);
  line.run(action, [args] { return run(*args); });
}

}  // namespace calotype::cli
