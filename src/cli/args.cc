#include "cli/args.h"

#include <array>
#include <charconv>
#include <cstdlib>

#include "calotype/machine.h"
#include "cli/report.h"

namespace calotype::cli {
namespace {

constexpr int64_t kMostThreads = 1024;
constexpr int64_t kLongestSide = 1 << 20;
constexpr int kHelpColumn = 30;

// CLI11's help without what the descriptions say anyway, and the usage line first.
class HelpFormatter : public CLI::Formatter {
 public:
  explicit HelpFormatter(std::string usage) : usage_(std::move(usage)) {
    column_width(kHelpColumn);
    label("Positionals", "Inputs");
  }
  std::string make_usage(const CLI::App*, std::string) const override { return {}; }
  std::string make_description(const CLI::App* app) const override {
    return "Usage: " + usage_ + "\n\n" + app->get_description() + ".\n";
  }
  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override {
    std::string help = Formatter::make_help(app, std::move(name), mode);
    return CLI::detail::find_and_replace(std::move(help), "\n\n\n", "\n\n");
  }
  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_type_name().empty() ? "" : " " + option->get_type_name();
  }

 private:
  std::string usage_;
};

template <class Number>
bool parse_whole(std::string_view text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::optional<Size> parse_size(const std::string& text) {
  const size_t x = text.find_first_of("xX");
  Size size;
  if (x == std::string::npos || !parse_whole(std::string_view(text).substr(0, x), size.width) ||
      !parse_whole(std::string_view(text).substr(x + 1), size.height)) {
    return {};
  }
  const bool sane = size.width >= 1 && size.height >= 1 && size.width <= kLongestSide &&
                    size.height <= kLongestSide;
  return sane ? std::optional(size) : std::nullopt;
}

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
  if (std::getenv("CALOTYPE_SIMD") != nullptr) {
    try {
      cpu_simd_target();
    } catch (const Error& error) {
      throw Error(ErrorCode::kInvalidArgument, error.what());
    }
  }
  const char* memory = std::getenv("CALOTYPE_MEMORY");
  if (memory != nullptr && *memory != '\0') parse_memory_size(memory);
}

CLI::Validator check_that(bool (*good)(const std::string&), const std::string& expected) {
  return {[good, expected](std::string& text) {
            return good(text) ? std::string() : text + " is not " + expected;
          },
          "", "check"};
}

}  // namespace

void set_help(CLI::App& app, const std::string& usage, const std::string& footer) {
  app.formatter(std::make_shared<HelpFormatter>(usage));
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.footer(footer);
}

CLI::App* add_command(CLI::App& program, const std::string& name, const std::string& description,
                      const std::string& usage, const std::string& examples) {
  CLI::App* command = program.add_subcommand(name, description)->group("Commands");
  set_help(*command, usage, "Examples:\n" + examples);
  return command;
}

CLI::Option* add_choice(CLI::App& app, const std::string& names, std::string& value,
                        const std::vector<std::string>& words, const std::string& description) {
  const auto check = [words](std::string& text) {
    for (const std::string& word : words) {
      if (text == word) return std::string();
    }
    return text + " is not one of " + join(words, ", ");
  };
  CLI::Option* option = app.add_option(names, value, description);
  option->check(CLI::Validator(check, "", "choice"));
  option->type_name(join(words, "|"));
  return option;
}

CLI::Option* add_number(CLI::App& app, const std::string& names, int64_t& value, int64_t low,
                        int64_t high, const std::string& description) {
  const auto set = [&value, low, high, names](const std::string& text) {
    int64_t number = 0;
    if (!parse_whole(std::string_view(text), number) || number < low || number > high) {
      throw CLI::ValidationError(names,
                                 text + " is not a whole number from " + std::to_string(low) +
                                     (high == INT64_MAX ? " on" : " to " + std::to_string(high)));
    }
    value = number;
  };
  return app.add_option_function<std::string>(names, set, description)->type_name("N");
}

CLI::Option* add_size(CLI::App& app, const std::string& names, std::optional<Size>& value,
                      const std::string& description) {
  const auto set = [&value, names](const std::string& text) {
    value = parse_size(text);
    if (!value) {
      throw CLI::ValidationError(names, text + " is not a size such as 1024x768 (width x height)");
    }
  };
  return app.add_option_function<std::string>(names, set, description)->type_name("WxH");
}

void ModelArgs::add(CLI::App& app) {
  app.add_option("-m,--model", model,
                 "A diffusers folder, a .safetensors or .gguf file, a Hugging Face\n"
                 "repo id in the local cache, or an Ollama name; default: the\n"
                 "small embedded model (see calotype list)")
      ->type_name("M")
      ->group("Model");
  add_choice(app, "--family", family, family_names(),
             "What a file that holds no config is taken for")
      ->group("Model");
  app.add_flag("--verify", verify, "Check the digests of the model's files where it has them")
      ->group("Model");
}

AutoencoderKL ModelArgs::load() const {
  if (only_family()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "--family " + family + " says what the file of --model is, and there is no --model");
  }
  return AutoencoderKL::load(model == kEmbedded ? "" : model, {.family = family, .verify = verify});
}

void RunArgs::add(CLI::App& app) {
  add_choice(app, "--backend", backend, {"cpu", "reference"},
             "reference: float64 in plain loops, slow and exact")
      ->group("Computing");
  add_choice(app, "--precision", precision, {"f32", "fast", "bf16"},
             "f32 (default); fast: float32 with larger Winograd tiles;\n"
             "bf16: bf16 products where the CPU has them")
      ->group("Computing");
  add_number(app, "--threads", threads, 1, kMostThreads, "Default: all that the process may use")
      ->group("Computing");
  app.add_option("--memory", memory,
                 "Peak memory of the job: 1.3G, 700M or bytes (default:\n"
                 "$CALOTYPE_MEMORY, else three quarters of what is free)")
      ->type_name("SIZE")
      ->group("Computing");
  app.add_option("--scratch", scratch,
                 "Where what does not fit is spilled to (default: $TMPDIR, else\n"
                 "/var/tmp)")
      ->type_name("DIR")
      ->group("Computing");
}

RunOptions RunArgs::options() const {
  static const std::map<std::string, Precision> kPrecisions = {
      {"f32", Precision::kF32}, {"fast", Precision::kFast}, {"bf16", Precision::kBF16}};
  RunOptions options;
  if (!backend.empty()) {
    options.backend = backend == "reference" ? Backend::kReference : Backend::kCpu;
  }
  if (!precision.empty()) options.precision = kPrecisions.at(precision);
  options.threads = static_cast<int>(threads);
  if (!memory.empty()) options.memory = parse_memory_size(memory);
  options.scratch = scratch;
  check_environment();
  return options;
}

void ReportArgs::add(CLI::App& app, const std::string& quiet_description) {
  app.add_flag("-q,--quiet", quiet, quiet_description);
  app.add_flag("--json", json, "Print the report as JSON");
}

CLI::Option* OutputArgs::add(CLI::App& app, const std::string& what,
                             const std::string& force_description) {
  CLI::Option* option = app.add_option("-o,--output", output, what)->type_name("OUT");
  app.add_flag("--force", force, force_description);
  return option;
}

void PictureInArgs::add(CLI::App& app) {
  add_size(app, "--resize", resize, "Resize the picture first (antialiased Lanczos)");
  app.add_option("--background", background,
                 "What transparent pixels are laid over: white (default), black,\n"
                 "grey or #rrggbb")
      ->type_name("COLOUR")
      ->check(check_that([](const std::string& text) { return parse_colour(text).has_value(); },
                         "white, black, grey or a colour such as #ff8000"));
}

Tensor PictureInArgs::read(const std::string& path) const {
  const auto colour = parse_colour(background);
  ReadImageOptions options;
  for (size_t i = 0; i < 3; ++i) options.background[i] = colour->at(i);
  Tensor image = read_image(path, options);
  return resize ? calotype::resize(image, resize->height, resize->width) : std::move(image);
}

void PictureOutArgs::add(CLI::App& app) {
  add_choice(app, "--format", format, {"png", "jpeg", "webp", "npy", "safetensors"},
             "Instead of what the suffix of -o says; png for - and folders");
  add_number(app, "--quality", quality, 1, 100,
             "Of JPEG and WebP (default 95; 100: lossless WebP)");
  app.add_option("--bit-depth", bit_depth, "Of PNG: 8 (default) or 16")
      ->type_name("8|16")
      ->check(check_that([](const std::string& text) { return text == "8" || text == "16"; },
                         "8 or 16"));
}

ImageFormat PictureOutArgs::format_of(const std::string& path) const {
  if (format.empty())
    return path == "-" || path.empty() ? ImageFormat::kPng : image_format_of(path);
  return image_format_of("name." + format);
}

WriteImageOptions PictureOutArgs::options() const {
  WriteImageOptions options;
  options.quality = static_cast<int>(quality);
  options.bit_depth = static_cast<int>(bit_depth);
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
