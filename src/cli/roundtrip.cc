// calotype roundtrip: encodes and decodes pictures, and says what that cost them.
#include <cmath>
#include <future>
#include <utility>

#include "cli/args.h"
#include "cli/batch.h"
#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/interrupt.h"
#include "cli/outputs.h"
#include "cli/progress.h"
#include "cli/report.h"

namespace calotype::cli {
namespace {

struct RoundtripArgs {
  std::vector<std::string> pictures;
  ModelArgs model;
  RunArgs run;
  ReportArgs report;
  OutputArgs output;
  PictureInArgs picture_in;
  PictureOutArgs picture_out;
  std::string compare;
  int64_t amplify = 8;
  bool sample = false;
  int64_t seed = 0;
};

struct Roundtrip {
  Tensor image;
  double encode_seconds = 0, decode_seconds = 0;
};

// How a part that does not need the whole machine is run: in a thread, where there may be two.
std::launch beside(const RunArgs& run) {
  return run.threads == 1 ? std::launch::deferred : std::launch::async;
}

Roundtrip run_roundtrip(const AutoencoderKL& model, const RoundtripArgs& args, const Tensor& image,
                        ProgressMeter& meter) {
  Tensor padded = padded_picture(image, model.config().spatial_factor());
  const int64_t height = padded.dim(1), width = padded.dim(2);
  RunOptions encoding = args.run.options(), decoding = encoding;
  // A job counts its own input; the original waits for the comparison.
  decoding.held_bytes = 4 * image.size();
  encoding.held_bytes = padded.data() == image.data() ? 0 : decoding.held_bytes;
  // Both before anything is computed: what does not fit is told at once.
  auto planning = std::async(beside(args.run),
                             [&] { return model.plan_decode(1, height, width, decoding).flop; });
  const double encode_flop = model.plan_encode(1, height, width, encoding).flop;
  const double decode_flop = planning.get();
  const double share = encode_flop / (encode_flop + decode_flop);
  Roundtrip result;
  encoding.progress = meter.part(0, share);
  const Stopwatch encode_watch;
  const Posterior posterior = model.encode(padded, encoding);
  padded = {};
  Tensor latents =
      args.sample ? posterior.sample(static_cast<uint64_t>(args.seed)) : posterior.mode();
  const bool raw = !model.has_latent_space();
  if (!raw) latents = model.scale(latents);
  result.encode_seconds = encode_watch.seconds();
  decoding.progress = meter.part(share, 1);
  const Stopwatch decode_watch;
  Tensor decoded = raw ? model.decode_z(latents, decoding) : model.decode(latents, decoding);
  result.image = cropped_picture(std::move(decoded), image.dim(1), image.dim(2));
  result.decode_seconds = decode_watch.seconds();
  return result;
}

// Where results and comparisons go; no names where none are asked for.
struct RoundtripFiles {
  ImageFormat format = ImageFormat::kPng, compare_format = ImageFormat::kPng;
  std::vector<std::string> outputs, compares;
};

RoundtripFiles plan_files(const RoundtripArgs& args) {
  constexpr const char* kSuffixes[] = {".png", ".jpg", ".webp", ".npy", ".safetensors"};
  const auto suffix = [&](ImageFormat format) {
    return std::string(kSuffixes[static_cast<size_t>(format)]);
  };
  const auto format_for = [&](const std::string& output) {
    return args.picture_out.format_of(names_folder(output) ? "" : output);
  };
  OutputPlan plan(args.pictures, args.model.model, args.output.force);
  RoundtripFiles files;
  std::vector<ImageFormat> formats;
  if (!args.output.output.empty()) {
    formats.push_back(files.format = format_for(args.output.output));
    files.outputs = plan.add(args.output.output, suffix(files.format));
  }
  if (!args.compare.empty()) {
    formats.push_back(files.compare_format = format_for(args.compare));
    files.compares = plan.add(args.compare, "-compare" + suffix(files.compare_format));
  }
  args.picture_out.check(formats);
  return files;
}

class RoundtripJob {
 public:
  RoundtripJob(const RoundtripArgs& args, const AutoencoderKL& model, const Report& report,
               const Machine& machine, const RoundtripFiles& files)
      : args_(args), model_(model), report_(report), machine_(machine), files_(files) {}

  Json operator()(size_t i, const Tensor& image) {
    const std::string& input = args_.pictures[i];
    Roundtrip result;
    {
      ProgressMeter meter(job_label("roundtrip", args_.pictures, i), args_.report.no_progress());
      result = interruptible([&] { return run_roundtrip(model_, args_, image, meter); });
    }
    check_finite(result.image, input, args_.model.name());
    // Compared while the files are compressed.
    auto comparing = std::async(beside(args_.run), [&] {
      return std::pair(psnr(image, result.image), ssim(image, result.image));
    });
    write(i, image, result.image);
    const auto [decibels, similarity] = comparing.get();
    ++count_;
    psnr_sum_ += decibels;
    ssim_sum_ += similarity;
    const int64_t width = image.dim(2), height = image.dim(1);
    const double megapixels = static_cast<double>(width * height) * 1e-6;
    print(i, width, height, decibels, similarity, megapixels, result);
    return {{"input", input},
            {"output", files_.outputs.empty() ? Json() : Json(files_.outputs[i])},
            {"compare", files_.compares.empty() ? Json() : Json(files_.compares[i])},
            {"width", width},
            {"height", height},
            {"psnr", finite(decibels)},
            {"ssim", similarity},
            {"encode_s", result.encode_seconds},
            {"decode_s", result.decode_seconds},
            {"encode_megapixels_per_s", megapixels / result.encode_seconds},
            {"decode_megapixels_per_s", megapixels / result.decode_seconds}};
  }

  // Of the pictures that could be read.
  Json means() const {
    if (count_ == 0) return {};
    if (count_ > 1) {
      report_.line(printf_string("mean of %d: PSNR %.2f dB, SSIM %.4f", count_, psnr_sum_ / count_,
                                 ssim_sum_ / count_));
    }
    return {{"psnr", finite(psnr_sum_ / count_)}, {"ssim", ssim_sum_ / count_}};
  }

 private:
  // JSON has no infinity: null is the PSNR of equal pictures.
  static Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(); }

  void write(size_t i, const Tensor& original, const Tensor& result) const {
    const WriteImageOptions options = args_.picture_out.options();
    if (!files_.outputs.empty()) write_image(result, files_.outputs[i], options, files_.format);
    if (files_.compares.empty()) return;
    const Tensor picture = comparison(original, result, static_cast<double>(args_.amplify));
    write_image(picture, files_.compares[i], options, files_.compare_format);
  }

  void print(size_t i, int64_t width, int64_t height, double decibels, double similarity,
             double megapixels, const Roundtrip& result) const {
    report_.line(printf_string("%s: %s, PSNR %.2f dB, SSIM %.4f",
                               display_name(args_.pictures[i], true).c_str(),
                               format_size(width, height).c_str(), decibels, similarity));
    report_.line(printf_string("  encode %s (%.2f megapixels/s), decode %s (%.2f megapixels/s), %s",
                               format_seconds(result.encode_seconds).c_str(),
                               megapixels / result.encode_seconds,
                               format_seconds(result.decode_seconds).c_str(),
                               megapixels / result.decode_seconds, machine_.name.c_str()));
    const auto& [format, compare_format, outputs, compares] = files_;
    if (!outputs.empty()) report_.line("  result: " + display_name(outputs[i], false));
    if (!compares.empty()) report_.line("  comparison: " + display_name(compares[i], false));
  }

  const RoundtripArgs& args_;
  const AutoencoderKL& model_;
  const Report& report_;
  const Machine& machine_;
  const RoundtripFiles& files_;
  int count_ = 0;
  double psnr_sum_ = 0, ssim_sum_ = 0;
};

// Picture `i`; refuses what cannot be written in the end.
Tensor read_one(const RoundtripArgs& args, const RoundtripFiles& files, size_t i, int64_t memory) {
  const std::string& path = args.pictures[i];
  Tensor image = args.picture_in.read(path, memory);
  if (image.dim(0) != 1) {
    throw Error(ErrorCode::kUnsupported, display_name(path, true) + ": holds " +
                                             std::to_string(image.dim(0)) +
                                             " pictures; roundtrip takes them one by one");
  }
  const int64_t height = image.dim(1), width = image.dim(2);
  if (!files.outputs.empty()) {
    check_image_size(display_name(files.outputs[i], false), files.format, height, width);
  }
  if (!files.compares.empty()) {
    const auto [high, wide] = comparison_size(height, width);
    check_image_size(display_name(files.compares[i], false), files.compare_format, high, wide);
  }
  return image;
}

int run(const RoundtripArgs& args) {
  const bool stdout_taken = args.output.output == "-" || args.compare == "-";
  const Report report(args.report.quiet, args.report.json, stdout_taken);
  const RoundtripFiles files = plan_files(args);
  // Refuses what makes no sense before the model is read.
  const int64_t memory = memory_budget(args.run.options().memory);
  const AutoencoderKL model = args.model.load();
  const Machine machine = machine_of(model, args.run);
  RoundtripJob job(args, model, report, machine, files);
  Json results;
  const int code = for_each_input(
      args.pictures, [&](size_t i) { return read_one(args, files, i, memory); },
      [&](size_t i, const Tensor& image) { return job(i, image); }, results);
  const Json mean = job.means();
  report.json({{"command", "roundtrip"},
               {"model", args.model.name()},
               {"backend", machine.backend},
               {"precision", machine.precision},
               {"mean", mean},
               {"results", results}},
              code);
  return code;
}

}  // namespace

void add_roundtrip(CLI::App& program, Action& action) {
  const auto args = std::make_shared<RoundtripArgs>();
  CommandLine line(program, "roundtrip", "Encode and decode pictures; print PSNR, SSIM and times",
                   "calotype roundtrip PICTURE... [-o OUT] [--compare OUT] [OPTIONS]", R"(
  calotype roundtrip photo.jpg
  calotype roundtrip photo.jpg -o back.png --compare compare.png
  calotype roundtrip *.png --model z-image --json

PSNR and SSIM are of the 8-bit pictures. --compare shows original, result and their
difference side by side.)");
  line.files("PICTURE", args->pictures, "Picture files; - is standard input");
  args->output.add(line, "Where the result goes: a picture file, a folder, or -");
  line.output("--compare", args->compare, "Where the comparison goes: likewise");
  line.number("--amplify", args->amplify, 1, 255,
              "Of the difference in the comparison (default 8)");
  line.flag("--sample", args->sample, "Draw from the posterior instead of taking its mode");
  line.number("--seed", args->seed, 0, INT64_MAX, "Of --sample (default 0)");
  line.need("--seed", "--sample");
  args->picture_in.add(line);
  args->picture_out.add(line);
  args->report.add(line);
  args->model.add(line);
  args->run.add(line);
  line.run(action, [args] { return run(*args); });
}

}  // namespace calotype::cli
