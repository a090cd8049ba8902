// calotype decode: latents to pictures.
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

struct DecodeArgs {
  std::vector<std::string> latents;
  ModelArgs model;
  RunArgs run;
  ReportArgs report;
  OutputArgs output;
  PictureOutArgs picture;
  bool unscaled = false;
  std::string layout;
  std::optional<Size> size;
};

std::string suffix_of(const PictureOutArgs& picture) {
  if (picture.format.empty()) return ".png";
  return picture.format == "jpeg" ? ".jpg" : "." + picture.format;
}

bool holds_batches(ImageFormat format) {
  return format == ImageFormat::kNpy || format == ImageFormat::kSafetensors;
}

LatentFile read_file(const DecodeArgs& args, const AutoencoderKL& model, const std::string& path) {
  ReadLatentsOptions options;
  if (!args.layout.empty()) {
    options.layout = args.layout == "nhwc" ? LatentLayout::kNhwc : LatentLayout::kNchw;
  }
  if (args.size) {
    options.image_width = args.size->width;
    options.image_height = args.size->height;
  }
  options.unscaled = args.unscaled;
  LatentFile file = read_latents(path, model.config(), options);
  const bool raw = file.unscaled || file.moments;
  const std::string space = raw ? latent_space_of(model) : model.latent_space_hash();
  if (!file.latent_space.empty() && !space.empty() && file.latent_space != space &&
      !args.output.force) {
    throw Error(ErrorCode::kInvalidData,
                display_name(path, true) + ": these latents are of another latent space (" +
                    (file.model.empty() ? "model not recorded" : "made by " + file.model) +
                    ") than that of the model " + args.model.name() +
                    "; name theirs with --model, or decode anyway with --force");
  }
  return file;
}

// What decode gives, before the crop; raw z of FLUX.2 is not patched.
Size decoded_size(const AutoencoderKLConfig& config, const LatentFile& file, bool raw) {
  const int64_t patch = config.is_flux2() && raw ? config.patch_size.at(0) : 1;
  const int64_t factor = config.spatial_factor() / patch;
  return {file.latents.dim(2) * factor, file.latents.dim(1) * factor};
}

// The part of the decoded picture that the latents were made from: --size, else what the file says.
Size picture_size(const DecodeArgs& args, const AutoencoderKLConfig& config, const LatentFile& file,
                  const Size& decoded, const std::string& path) {
  if (file.packed) return {file.image_width, file.image_height};  // --size told their grid
  Size size = decoded;
  if (args.size) {
    size = *args.size;
  } else if (file.image_width > 0 && file.image_height > 0) {
    size = {file.image_width, file.image_height};
  }
  const int64_t factor = config.spatial_factor();
  const auto fits = [factor](int64_t part, int64_t whole) {
    return part <= whole && part > whole - factor;
  };
  if (!fits(size.width, decoded.width) || !fits(size.height, decoded.height)) {
    throw Error(args.size ? ErrorCode::kInvalidArgument : ErrorCode::kInvalidData,
                display_name(path, true) + ": these latents give a picture of " +
                    format_size(decoded.width, decoded.height) + ", not the " +
                    format_size(size.width, size.height) +
                    (args.size ? " of --size" : " that the file records; give its --size"));
  }
  return size;
}

// Decodes the pictures of `input` one by one and hands each to `take`.
template <class Take>
void decode_pictures(const AutoencoderKL& model, const DecodeArgs& args, const std::string& input,
                     const LatentFile& file, const Size& size, bool raw, ProgressMeter& meter,
                     bool collects, const Take& take) {
  RunOptions options = args.run.options();
  const int64_t count = file.latents.dim(0);
  // The other latents of the file, and where the pictures are collected, all of them.
  options.held_bytes = 4 * (file.latents.size() - file.latents.size() / count);
  if (collects) {
    options.held_bytes +=
        byte_count(DType::kF32, {count, size.height, size.width, model.config().out_channels});
  }
  for (int64_t b = 0; b < count; ++b) {
    const auto share = [&](int64_t done) {
      return static_cast<double>(done) / static_cast<double>(count);
    };
    options.progress = meter.part(share(b), share(b + 1));
    Tensor latents = picture_of(file.latents, b);
    if (file.moments) latents = channels_of(latents, 0, latents.dim(3) / 2);
    const Tensor image = interruptible([&] {
      Tensor whole = raw ? model.decode_z(latents, options) : model.decode(latents, options);
      return cropped_picture(std::move(whole), size.height, size.width);
    });
    check_finite(image, input, args.model.name());
    take(b, image);
  }
}

// A file of latents, and what will become of it.
struct Decoding {
  LatentFile file;
  bool raw = false;
  Size size;
  std::vector<std::string> paths;
};

class DecodeJob {
 public:
  DecodeJob(const DecodeArgs& args, const AutoencoderKL& model, const Report& report,
            OutputPlan& plan, const std::vector<std::string>& outputs, ImageFormat format,
            const Machine& machine)
      : args_(args),
        model_(model),
        report_(report),
        plan_(plan),
        outputs_(outputs),
        format_(format),
        machine_(machine) {}

  // Reads input `i` and refuses what cannot be written in the end.
  Decoding prepare(size_t i) const {
    const std::string& input = args_.latents[i];
    Decoding job;
    job.file = read_file(args_, model_, input);
    job.raw = args_.unscaled || job.file.unscaled || job.file.moments;
    job.size = picture_size(args_, model_.config(), job.file,
                            decoded_size(model_.config(), job.file, job.raw), input);
    job.paths = paths_for(i, job.file.latents.dim(0));
    check_image_size(display_name(job.paths.front(), false), format_, job.size.height,
                     job.size.width);
    return job;
  }

  Json operator()(size_t i, const Decoding& job) const {
    const auto& [file, raw, size, paths] = job;
    const std::string& input = args_.latents[i];
    const Stopwatch watch;
    write_pictures(i, file, size, raw, paths);
    const double seconds = watch.seconds();
    const int64_t count = file.latents.dim(0);
    report_.line(display_name(input, true) + " -> " + display_name(paths.front(), false) +
                 (paths.size() > 1 ? " ... " + paths.back() : "") + ": " +
                 (count > 1 ? std::to_string(count) + " pictures of " : "") +
                 format_size(size.width, size.height) + ", " + format_seconds(seconds) + " (" +
                 machine_.name + ")");
    return {{"input", input}, {"outputs", paths}, {"width", size.width},   {"height", size.height},
            {"batch", count}, {"unscaled", raw},  {"made_by", file.model}, {"seconds", seconds}};
  }

 private:
  std::vector<std::string> paths_for(size_t i, int64_t count) const {
    if (count == 1 || holds_batches(format_)) return {outputs_[i]};
    if (outputs_[i] == "-") {
      throw Error(ErrorCode::kInvalidArgument,
                  display_name(args_.latents[i], true) + ": holds " + std::to_string(count) +
                      " pictures, and standard output takes one; say --format npy, or name a file");
    }
    return plan_.add_numbered(i, outputs_[i], count);
  }

  void write_pictures(size_t i, const LatentFile& file, const Size& size, bool raw,
                      const std::vector<std::string>& paths) const {
    ProgressMeter meter(job_label("decode", args_.latents, i), args_.report.no_progress());
    const bool together = paths.size() == 1;
    const int64_t count = file.latents.dim(0);
    Tensor all;
    const bool collects = together && count > 1;
    const auto take = [&](int64_t b, const Tensor& image) {
      if (collects) {
        put_picture(all, b, count, image);
        return;
      }
      write_image(image, paths[static_cast<size_t>(b)], args_.picture.options(), format_);
    };
    decode_pictures(model_, args_, args_.latents[i], file, size, raw, meter, collects, take);
    if (collects) write_image(all, paths[0], args_.picture.options(), format_);
  }

  const DecodeArgs& args_;
  const AutoencoderKL& model_;
  const Report& report_;
  OutputPlan& plan_;
  const std::vector<std::string>& outputs_;
  ImageFormat format_;
  const Machine& machine_;
};

int run(const DecodeArgs& args) {
  const bool folder = names_folder(args.output.output);
  const ImageFormat format = args.picture.format_of(folder ? "" : args.output.output);
  args.picture.check({format});
  OutputPlan plan(args.latents, args.model.model, args.output.force);
  const auto outputs = plan.add(args.output.output, suffix_of(args.picture));
  const Report report(args.report.quiet, args.report.json, args.output.output == "-");
  args.run.options();  // refuses what makes no sense before the model is read
  const AutoencoderKL model = args.model.load();
  const Machine machine = machine_of(model, args.run);
  Json results;
  const DecodeJob job(args, model, report, plan, outputs, format, machine);
  const int code = for_each_input(
      args.latents, [&](size_t i) { return job.prepare(i); }, job, results);
  report.json({{"command", "decode"},
               {"model", args.model.name()},
               {"backend", machine.backend},
               {"precision", machine.precision},
               {"latent_space", text_or_null(latent_space_of(model))},
               {"results", results}},
              code);
  return code;
}

}  // namespace

void add_decode(CLI::App& program, Action& action) {
  const auto args = std::make_shared<DecodeArgs>();
  CommandLine line(program, "decode", "Decode latents to pictures",
                   "calotype decode LATENTS... -o OUT [OPTIONS]", R"(
  calotype decode photo.safetensors -o photo.png
  calotype decode *.npy -o pictures/ --format webp --quality 90 --model z-image
  calotype decode tokens.npy -o photo.png --size 1024x768 --model ae.safetensors
  calotype decode photo.safetensors -o photo.npy --memory 1.3G

Latents are .safetensors (key latents), .npy, or ComfyUI's .latent; packed tokens
of FLUX pipelines need --size. A batch gives numbered pictures (photo-0001.png ...),
or one array in .npy and .safetensors. Latents of another model's space are refused
without --force.)");
  line.files("LATENTS", args->latents, "Latent files; - is standard input");
  args->output.add(line,
                   "A .png, .jpg, .webp, .npy or .safetensors file; a folder\n"
                   "(needed for several inputs); - is standard output",
                   "Overwrite files that exist where -o is a folder or the input\n"
                   "a batch; decode latents of another model's space");
  line.require("--output");
  line.flag("--unscaled", args->unscaled,
            "The latents are raw z: no scaling, shift or normalisation");
  line.choice("--layout", args->layout, {"nchw", "nhwc"},
              "Of the latents (default: what the file says, else nchw)");
  line.size("--size", args->size,
            "Of the picture: unpacks tokens, or crops. Of tokens, sides that are\n"
            "no multiple of a token's lose the rest, as in diffusers");
  args->picture.add(line);
  args->report.add(line);
  args->model.add(line);
  args->run.add(line);
  line.run(action, [args] { return run(*args); });
}

}  // namespace calotype::cli
