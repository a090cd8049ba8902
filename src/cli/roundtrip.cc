// calotype roundtrip: encodes and decodes pictures, and says what that cost them.
#include <cmath>

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

Roundtrip run_roundtrip(const AutoencoderKL& model, const RoundtripArgs& args, const Tensor& image,
                        ProgressMeter& meter) {
  RunOptions options = args.run.options();
  const Tensor padded = padded_picture(image, model.config().spatial_factor());
  const Plan encoding = model.plan_encode(1, padded.dim(1), padded.dim(2), options);
  const Plan decoding = model.plan_decode(1, padded.dim(1), padded.dim(2), options);
  const double share = encoding.flop / (encoding.flop + decoding.flop);
  Roundtrip result;
  options.progress = meter.part(0, share);
  const Stopwatch encode_watch;
  const Posterior posterior = model.encode(padded, options);
  const Tensor latents = model.scale(
      args.sample ? posterior.sample(static_cast<uint64_t>(args.seed)) : posterior.mode());
  result.encode_seconds = encode_watch.seconds();
  options.progress = meter.part(share, 1);
  const Stopwatch decode_watch;
  result.image = cropped_picture(model.decode(latents, options), image.dim(1), image.dim(2));
  result.decode_seconds = decode_watch.seconds();
  return result;
}

class RoundtripJob {
 public:
  RoundtripJob(const RoundtripArgs& args, const AutoencoderKL& model, const Report& report,
               const Machine& machine)
      : args_(args), model_(model), report_(report), machine_(machine) {
    const bool force = args.output.force;
    if (!args.output.output.empty()) {
      format_ = format_for(args.output.output);
      outputs_ = plan_outputs(args.pictures, args.output.output, suffix("", format_), force);
    }
    if (!args.compare.empty()) {
      compare_format_ = format_for(args.compare);
      compares_ =
          plan_outputs(args.pictures, args.compare, suffix("-compare", compare_format_), force);
    }
    for (size_t i = 0; i < std::min(outputs_.size(), compares_.size()); ++i) {
      if (outputs_[i] == compares_[i]) {
        throw Error(ErrorCode::kInvalidArgument,
                    "-o and --compare both name " + display_name(outputs_[i], false));
      }
    }
  }

  Json operator()(size_t i, const Tensor& image) {
    const std::string& input = args_.pictures[i];
    Roundtrip result;
    {
      ProgressMeter meter(job_label("roundtrip", args_.pictures, i), args_.report.quiet);
      result = interruptible([&] { return run_roundtrip(model_, args_, image, meter); });
    }
    check_finite(result.image, input, args_.model.name());
    const double decibels = psnr(image, result.image), similarity = ssim(image, result.image);
    ++count_;
    psnr_sum_ += decibels;
    ssim_sum_ += similarity;
    write(i, image, result.image);
    const int64_t width = image.dim(2), height = image.dim(1);
    const double megapixels = static_cast<double>(width * height) * 1e-6;
    print(i, width, height, decibels, similarity, megapixels, result);
    return {{"input", input},
            {"output", outputs_.empty() ? Json() : Json(outputs_[i])},
            {"compare", compares_.empty() ? Json() : Json(compares_[i])},
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

  ImageFormat format_for(const std::string& output) const {
    return args_.picture_out.format_of(names_folder(output) ? "" : output);
  }

  static std::string suffix(const std::string& before, ImageFormat format) {
    constexpr const char* kSuffixes[] = {".png", ".jpg", ".webp", ".npy", ".safetensors"};
    return before + kSuffixes[static_cast<size_t>(format)];
  }

  void write(size_t i, const Tensor& original, const Tensor& result) const {
    const WriteImageOptions options = args_.picture_out.options();
    if (!outputs_.empty()) write_image(result, outputs_[i], options, format_);
    if (compares_.empty()) return;
    const Tensor picture = comparison(original, result, static_cast<double>(args_.amplify));
    write_image(picture, compares_[i], options, compare_format_);
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
    if (!outputs_.empty()) report_.line("  result: " + display_name(outputs_[i], false));
    if (!compares_.empty()) report_.line("  comparison: " + display_name(compares_[i], false));
  }

  const RoundtripArgs& args_;
  const AutoencoderKL& model_;
  const Report& report_;
  const Machine& machine_;
  ImageFormat format_ = ImageFormat::kPng, compare_format_ = ImageFormat::kPng;
  std::vector<std::string> outputs_, compares_;
  int count_ = 0;
  double psnr_sum_ = 0, ssim_sum_ = 0;
};

Tensor read_one(const RoundtripArgs& args, const std::string& path) {
  Tensor image = args.picture_in.read(path);
  if (image.dim(0) != 1) {
    throw Error(ErrorCode::kUnsupported, display_name(path, true) + ": holds " +
                                             std::to_string(image.dim(0)) +
                                             " pictures; roundtrip takes them one by one");
  }
  return image;
}

int run(const RoundtripArgs& args) {
  const bool stdout_taken = args.output.output == "-" || args.compare == "-";
  const Report report(args.report.quiet, args.report.json, stdout_taken);
  args.run.options();  // refuses what makes no sense before the model is read
  const AutoencoderKL model = args.model.load();
  const Machine machine = machine_of(model, args.run);
  RoundtripJob job(args, model, report, machine);
  Json results;
  const int code = for_each_input(
      args.pictures, [&](const std::string& path) { return read_one(args, path); },
      [&](size_t i, const Tensor& image) { return job(i, image); }, results);
  const Json mean = job.means();
  report.json({{"command", "roundtrip"},
               {"model", args.model.name()},
               {"backend", machine.backend},
               {"precision", machine.precision},
               {"mean", mean},
               {"results", results}});
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
  line.text("--compare", args->compare, "OUT", "Where the comparison goes: likewise");
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
