#include "cli/args.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>

#include "calotype/machine.h"
#include "cli/report.h"

namespace calotype::cli {
namespace {

constexpr int64_t kMostThreads = 1024;

// "white", "black", "grey" or "#rrggbb".
std::optional<std::array<float, 3>> parse_colour(const std::string& text) {
  static const std::map<std::string, std::string> kNamed = {
      {"white", "#ffffff"}, {"black", "#000000"}, {"grey", "#808080"}, {"gray", "#808080"}};
  const auto named = kNamed.find(text);
  const std::string hex = named == kNamed.end() ? text : named->second;
  if (hex.size() != 7 || hex[0] != '#') return {};
  std::array<float, 3> colour{};
  for (size_t i = 0; i < 3; ++i) {
    unsigned byte = 0;
    const char* at = hex.data() + 1 + 2 * i;
    const auto [end, error] = std::from_chars(at, at + 2, byte, 16);
    if (error != std::errc() || end != at + 2) return {};
    colour[i] = static_cast<float>(byte) / 255;
  }
  return colour;
}

// Throws Error(kInvalidArgument) where the library could not read its environment variables.
void check_environment() {
  if (std::getenv("CALOTYPE_SIMD") != nullptr) as_usage(cpu_simd_target);
  const char* memory = std::getenv("CALOTYPE_MEMORY");
  if (memory != nullptr && *memory != '\0') parse_memory_size(memory);
}

// Throws Error(kOutOfMemory) where the picture, its rows resized and the result together take more
// than `memory` bytes.
void check_resize(const std::string& path, const Tensor& image, const Size& size, int64_t memory) {
  const int64_t height = image.dim(1), width = image.dim(2);
  const auto area = [](int64_t h, int64_t w) {
    return static_cast<double>(h) * static_cast<double>(w);
  };
  const double pixels =
      area(height, width) + area(height, size.width) + area(size.height, size.width);
  const double bytes = pixels * static_cast<double>(image.dim(0) * image.dim(3) * 4);
  if (bytes <= static_cast<double>(memory)) return;
  throw Error(ErrorCode::kOutOfMemory,
              display_name(path, true) + ": resizing it to " +
                  format_size(size.width, size.height) + " takes " +
                  format_bytes(static_cast<int64_t>(bytes)) + ", more than the memory budget of " +
                  format_bytes(memory) + "; resize it to a smaller size, or raise --memory");
}

}  // namespace

void ModelArgs::add(CommandLine& line) {
  line.heading("Model");
  line.text(
      "-m,--model", model, "M",
      "A diffusers folder, a .safetensors or .gguf file, a Hugging Face\n"
      "repo id in the local cache, or an Ollama name; default: the\n"
      "small embedded model (see calotype list)",
      [](const std::string& text) { return !text.empty(); }, "the name of a model");
  line.choice("--family", family, family_names(),
              "Whose latent space the model has, whatever its config says\n"
              "(default: as its config says, else inferred)");
  line.flag("--verify", verify,
            "Check the digests of the model's files where it has them (Ollama,\n"
            "Hugging Face cache)");
}

AutoencoderKL ModelArgs::load() const {
  if (only_family()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "--family " + family + " says what the file of --model is, and there is no --model");
  }
  return AutoencoderKL::load(model == kEmbedded ? "" : model, {.family = family, .verify = verify});
}

void RunArgs::add(CommandLine& line) {
  line.heading("Computing");
  line.choice("--backend", backend, {"auto", "cpu", "cuda", "reference"},
              "auto (default): an NVIDIA GPU where there is one, else the CPU;\n"
              "reference: float64 in plain loops, slow and exact");
  line.number("--device", device, 0, INT32_MAX, "Which GPU (default 0)");
  line.choice("--precision", precision, {"f32", "fast", "bf16", "f16", "fp8"},
              "f32 (default on the CPU); fast: float32 with larger Winograd\n"
              "tiles (CPU); bf16 (default on a GPU): bf16 products where the\n"
              "machine has them; f16 (GPU); fp8 (GPU, sm_90): e4m3 products,\n"
              "ten times the error of bf16");
  line.number("--threads", threads, 1, kMostThreads, "Default: all that the process may use");
  line.text("--memory", memory, "SIZE",
            "Peak memory of the job: 1.3G, 700M or bytes (default:\n"
            "$CALOTYPE_MEMORY, else three quarters of what is free)");
  line.text("--scratch", scratch, "DIR",
            "Where what does not fit is spilled to (default: $TMPDIR, else\n"
            "/var/tmp)");
}

RunOptions RunArgs::options() const {
  static const std::map<std::string, Precision> kPrecisions = {{"f32", Precision::kF32},
                                                               {"fast", Precision::kFast},
                                                               {"bf16", Precision::kBF16},
                                                               {"f16", Precision::kF16},
                                                               {"fp8", Precision::kFP8}};
  static const std::map<std::string, Backend> kBackends = {{"auto", Backend::kAuto},
                                                           {"cpu", Backend::kCpu},
                                                           {"cuda", Backend::kCuda},
                                                           {"reference", Backend::kReference}};
  RunOptions options;
  if (!backend.empty()) options.backend = kBackends.at(backend);
  if (!precision.empty()) options.precision = kPrecisions.at(precision);
  options.threads = static_cast<int>(threads);
  options.device = static_cast<int>(device);
  if (!memory.empty()) options.memory = parse_memory_size(memory);
  options.scratch = scratch;
  options.notice = print_note;
  check_environment();
  return options;
}

Machine machine_of(const AutoencoderKL& model, const RunArgs& args) {
  const std::string name = model.backend_name(args.options());
  if (name == "reference") return {"reference", "f64", "reference, f64", ""};
  const std::string precision = args.precision.empty() ? "f32" : args.precision;
  if (!name.starts_with("CPU")) {
    return {"cuda", args.precision.empty() ? "bf16" : args.precision, name, ""};
  }
  if (precision == "f16" || precision == "fp8") {
    throw Error(ErrorCode::kInvalidArgument,
                "--precision " + precision +
                    " is for GPUs, and this job would run on the CPU; use f32 or fast");
  }
  const size_t colon = name.find(": ");
  return {"cpu", precision, "CPU, " + precision,
          colon == std::string::npos ? "" : name.substr(colon + 2)};
}

std::string latent_space_of(const AutoencoderKL& model) {
  return model.has_latent_space() ? model.latent_space_hash() : "";
}

void ReportArgs::add(CommandLine& line, const std::string& quiet_description) {
  line.flag("-q,--quiet", quiet, quiet_description);
  line.flag("--json", json, "Print the report as JSON, and no progress");
}

void OutputArgs::add(CommandLine& line, const std::string& what,
                     const std::string& force_description) {
  line.output("-o,--output", output, what);
  line.flag("--force", force, force_description);
}

void PictureInArgs::add(CommandLine& line) {
  line.size("--resize", resize, "Resize the picture first (antialiased Lanczos)");
  line.text(
      "--background", background, "COLOUR",
      "What transparent pixels are laid over: white (default), black,\n"
      "grey or #rrggbb",
      [](const std::string& text) { return parse_colour(text).has_value(); },
      "white, black, grey or a colour such as #ff8000");
}

Tensor PictureInArgs::read(const std::string& path, int64_t memory) const {
  const auto colour = parse_colour(background);
  ReadImageOptions options;
  options.memory = memory;
  for (size_t i = 0; i < 3; ++i) options.background[i] = colour->at(i);
  Tensor image = read_image(path, options);
  if (!resize) return image;
  check_resize(path, image, *resize, memory);
  return calotype::resize(image, resize->height, resize->width);
}

void PictureOutArgs::add(CommandLine& line) {
  line.choice("--format", format, {"png", "jpeg", "webp", "npy", "safetensors"},
              "Instead of what the suffix of -o says; png for - and folders");
  line.number("--quality", quality, 1, 100, "Of JPEG and WebP (default 95; 100: lossless WebP)");
  line.choice("--bit-depth", bit_depth, {"8", "16"}, "Of PNG (default 8)");
}

ImageFormat PictureOutArgs::format_of(const std::string& path) const {
  if (!format.empty()) return image_format_of("name." + format);
  if (path == "-" || path.empty()) return ImageFormat::kPng;
  return as_usage([&] { return image_format_of(path); });
}

void PictureOutArgs::check(const std::vector<ImageFormat>& formats) const {
  const auto writes = [&](ImageFormat wanted) {
    return std::ranges::find(formats, wanted) != formats.end();
  };
  if (quality != 0 && !writes(ImageFormat::kJpeg) && !writes(ImageFormat::kWebp)) {
    throw Error(ErrorCode::kInvalidArgument,
                "--quality is of JPEG and WebP, and no such file is written");
  }
  if (bit_depth == "16" && !writes(ImageFormat::kPng)) {
    throw Error(ErrorCode::kInvalidArgument, "--bit-depth 16 is of PNG, and no PNG is written");
  }
}

WriteImageOptions PictureOutArgs::options() const {
  WriteImageOptions options;
  if (quality != 0) options.quality = static_cast<int>(quality);
  options.bit_depth = bit_depth == "16" ? 16 : 8;
  return options;
}

const std::map<std::string, DType>& weight_dtypes() {
  static const std::map<std::string, DType> kDTypes = {
      {"f32", DType::kF32}, {"f16", DType::kF16}, {"bf16", DType::kBF16}, {"q8_0", DType::kQ8_0}};
  return kDTypes;
}

std::string display_name(const std::string& path, bool input) {
  if (path != "-") return path;
  return input ? "standard input" : "standard output";
}

}  // namespace calotype::cli
