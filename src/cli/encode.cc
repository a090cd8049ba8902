// calotype encode: pictures to latents.
#include "calotype/latents.h"
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

struct EncodeArgs {
  std::vector<std::string> pictures;
  ModelArgs model;
  RunArgs run;
  ReportArgs report;
  OutputArgs output;
  PictureInArgs picture;
  bool sample = false, moments = false, unscaled = false;
  int64_t seed = 0;
  std::string dtype = "f32", layout = "nchw", format;

  LatentFormat latent_format() const {
    if (!format.empty()) return latent_format_of("name." + format);
    if (output.output == "-" || names_folder(output.output)) return LatentFormat::kSafetensors;
    return as_usage([this] { return latent_format_of(output.output); });
  }
};

// What no file of the format can hold is said before minutes of work, not after.
void check_format(const EncodeArgs& args, LatentFormat format) {
  const auto refuse = [](const char* sentence) {
    throw Error(ErrorCode::kInvalidArgument, sentence);
  };
  if (format == LatentFormat::kNpy && args.dtype == "bf16") {
    refuse("--dtype bf16: .npy has no such type; use f32 or f16, or write .safetensors");
  }
  if (format == LatentFormat::kComfy && args.moments) {
    refuse("--moments: ComfyUI's .latent holds latents only; write .safetensors or .npy");
  }
  if (format == LatentFormat::kComfy && args.layout == "nhwc") {
    refuse("--layout nhwc: ComfyUI's .latent is NCHW; write .safetensors or .npy");
  }
}

// The latents, or moments, of one picture [1, H, W, 3] whose sides are multiples of the factor.
Tensor encode_picture(const AutoencoderKL& model, const EncodeArgs& args, bool unscaled,
                      const Tensor& image, const RunOptions& options) {
  const Posterior posterior = model.encode(image, options);
  if (args.moments) return join_channels(posterior.mean, posterior.logvar);
  Tensor z = args.sample ? posterior.sample(static_cast<uint64_t>(args.seed)) : posterior.mode();
  return unscaled ? std::move(z) : model.scale(z);
}

LatentFile encode_file(const AutoencoderKL& model, const EncodeArgs& args, LatentFormat format,
                       const std::string& input, const Tensor& image, ProgressMeter& meter) {
  LatentFile file;
  file.moments = args.moments;
  // ComfyUI multiplies by the scale itself, but for FLUX.2, whose normalised patches it stores.
  file.unscaled = args.unscaled || (format == LatentFormat::kComfy && !model.config().is_flux2());
  file.image_height = image.dim(1);
  file.image_width = image.dim(2);
  file.model = args.model.name();
  const bool raw = file.unscaled || file.moments;
  file.latent_space = raw ? latent_space_of(model) : model.latent_space_hash();
  RunOptions options = args.run.options();
  const int64_t count = image.dim(0);
  for (int64_t b = 0; b < count; ++b) {
    const auto share = [&](int64_t done) {
      return static_cast<double>(done) / static_cast<double>(count);
    };
    options.progress = meter.part(share(b), share(b + 1));
    const Tensor picture = picture_of(image, b);
    const Tensor padded = padded_picture(picture, model.config().spatial_factor());
    // All that was read and made, but for what the job itself counts.
    const bool copied = padded.data() != picture.data();
    options.held_bytes = 4 * (image.size() - (copied ? 0 : picture.size()) + file.latents.size());
    const Tensor latents = encode_picture(model, args, file.unscaled, padded, options);
    check_finite(latents, input, args.model.name());
    put_picture(file.latents, b, count, latents);
  }
  return file;
}

int run(const EncodeArgs& args) {
  const LatentFormat format = args.latent_format();
  check_format(args, format);
  const std::string suffix = args.format.empty() ? ".safetensors" : "." + args.format;
  OutputPlan plan(args.pictures, args.model.model, args.output.force);
  const auto outputs = plan.add(args.output.output, suffix);
  const Report report(args.report.quiet, args.report.json, args.output.output == "-");
  // Refuses what makes no sense before the model is read.
  const int64_t memory = memory_budget(args.run.options().memory);
  const AutoencoderKL model = args.model.load();
  const Machine machine = machine_of(model, args.run);
  const WriteLatentsOptions write_options = {
      .dtype = weight_dtypes().at(args.dtype),
      .layout = args.layout == "nhwc" ? LatentLayout::kNhwc : LatentLayout::kNchw,
      .format = format};
  const auto read = [&](size_t i) { return args.picture.read(args.pictures[i], memory); };
  const auto job = [&](size_t i, const Tensor& image) {
    const Stopwatch watch;
    LatentFile file;
    {
      ProgressMeter meter(job_label("encode", args.pictures, i), args.report.no_progress());
      file = interruptible(
          [&] { return encode_file(model, args, format, args.pictures[i], image, meter); });
    }
    const double seconds = watch.seconds();
    write_latents(file, outputs[i], model.config(), write_options);
    const Shape& nhwc = file.latents.shape();
    const Shape shape = args.layout == "nhwc" ? nhwc : nchw(nhwc);
    const auto [width, height] = std::pair(file.image_width, file.image_height);
    report.line(display_name(args.pictures[i], true) + " -> " + display_name(outputs[i], false) +
                ": " + format_size(width, height) + ", " +
                (args.moments ? "moments " : "latents ") + shape_string(shape) + ", " +
                format_seconds(seconds) + " (" + machine.name + ")");
    return Json{{"input", args.pictures[i]},
                {"output", outputs[i]},
                {"width", width},
                {"height", height},
                {"latent_shape", shape},
                {"unscaled", file.unscaled || file.moments},
                {"moments", file.moments},
                {"seconds", seconds}};
  };
  Json results;
  const int code = for_each_input(args.pictures, read, job, results);
  report.json({{"command", "encode"},
               {"model", args.model.name()},
               {"backend", machine.backend},
               {"precision", machine.precision},
               {"latent_space", text_or_null(latent_space_of(model))},
               {"dtype", dtype_name(write_options.dtype)},
               {"layout", args.layout},
               {"results", results}},
              code);
  return code;
}

}  // namespace

void add_encode(CLI::App& program, Action& action) {
  const auto args = std::make_shared<EncodeArgs>();
  CommandLine line(program, "encode", "Encode pictures to latents",
                   "calotype encode PICTURE... -o OUT [OPTIONS]", R"(
  calotype encode photo.jpg -o photo.safetensors
  calotype encode *.png -o latents/ --model z-image --dtype bf16
  calotype encode photo.jpg -o photo.npy --resize 1024x1024 --sample --seed 7
  cat photo.png | calotype encode - -o - | calotype decode - -o back.png

Pictures are PNG, JPEG, WebP, or .npy / .safetensors of float32 NHWC in [-1, 1].
Sides that are no multiple of the model's factor are padded by repeating the edge;
the latents remember the picture's size, and decode crops to it. Without --sample
the latents are the mode.)");
  line.files("PICTURE", args->pictures, "Picture files; - is standard input");
  args->output.add(line,
                   "A .safetensors, .npy or ComfyUI .latent file; a folder\n"
                   "(needed for several pictures); - is standard output");
  line.require("--output");
  line.flag("--sample", args->sample, "Draw from the posterior instead of taking its mode");
  line.number("--seed", args->seed, 0, INT64_MAX,
              "Of --sample (default 0). Every picture gets the same noise, so\n"
              "that its latents do not depend on the others");
  line.need("--seed", "--sample");
  line.flag("--moments", args->moments,
            "Write mean and logvar, unscaled; decode takes the mean, where the\n"
            "file is .safetensors, which says what it holds");
  line.exclude("--moments", "--sample");
  line.flag("--unscaled", args->unscaled, "Write raw z: no scaling, shift or normalisation");
  line.exclude("--unscaled", "--moments");
  line.choice("--dtype", args->dtype, {"f32", "f16", "bf16"}, "Of the latents (default f32)");
  line.choice("--layout", args->layout, {"nchw", "nhwc"}, "Of the latents (default nchw)");
  line.choice("--format", args->format, {"safetensors", "npy", "latent"},
              "Instead of what the suffix of -o says");
  args->picture.add(line);
  args->report.add(line);
  args->model.add(line);
  args->run.add(line);
  line.run(action, [args] { return run(*args); });
}

}  // namespace calotype::cli
