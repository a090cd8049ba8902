// calotype convert: a model into another container.
#include <filesystem>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/outputs.h"
#include "cli/progress.h"
#include "cli/report.h"

namespace calotype::cli {
namespace {

namespace fs = std::filesystem;

struct ConvertArgs {
  ModelArgs model;
  ReportArgs report;
  OutputArgs output;
  std::string keys = "diffusers", dtype, ollama;
};

ModelFormat format_of(const ConvertArgs& args) {
  if (!args.ollama.empty()) return ModelFormat::kOllama;
  const std::string& output = args.output.output;
  if (names_folder(output)) return ModelFormat::kDiffusersFolder;
  if (output.ends_with(".safetensors")) return ModelFormat::kSafetensors;
  if (output.ends_with(".gguf")) return ModelFormat::kGguf;
  throw Error(ErrorCode::kInvalidArgument,
              output + ": is no .safetensors, no .gguf and no folder; end a folder's name with /");
}

const char* format_name(ModelFormat format) {
  switch (format) {
    case ModelFormat::kDiffusersFolder:
      return "diffusers";
    case ModelFormat::kSafetensors:
      return "safetensors";
    case ModelFormat::kGguf:
      return "gguf";
    case ModelFormat::kOllama:
      return "ollama";
  }
  return "";
}

void check(const ConvertArgs& args, ModelFormat format) {
  const auto refuse = [](const std::string& sentence) {
    throw Error(ErrorCode::kInvalidArgument, sentence);
  };
  if (args.output.output == "-") refuse("-o -: a model is written to a file, not standard output");
  const bool one_file = format == ModelFormat::kSafetensors || format == ModelFormat::kGguf;
  if (args.keys == "original" && !one_file) {
    refuse(std::string("--keys original: a model of the kind ") + format_name(format) +
           " has diffusers keys; write a .safetensors or .gguf file");
  }
  if (args.dtype == "q8_0" && format != ModelFormat::kGguf) {
    refuse("--dtype q8_0: only .gguf has this type");
  }
}

// A model is not written over the file, or into the folder, that it comes from unasked.
void refuse_own_input(const std::string& target, const Model& model) {
  if (model.container == kEmbedded) return;  // no file, whatever is named so
  const std::string& source = model.source;
  std::error_code ignored;
  const std::string folder = fs::absolute(target, ignored).parent_path().string();
  const bool in_source = fs::exists(target, ignored) && same_file(folder, source);
  if (!in_source && !same_file(target, source)) return;
  throw Error(ErrorCode::kInvalidArgument,
              target + " is the input itself; name another output, or say --force");
}

int64_t bytes_at(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return static_cast<int64_t>(fs::file_size(path, ignored));
  int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(path, ignored)) {
    if (entry.is_regular_file()) bytes += static_cast<int64_t>(entry.file_size());
  }
  return bytes;
}

int run(const ConvertArgs& args) {
  if (args.output.output.empty() && args.ollama.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "-o or --ollama must say where the model goes (see calotype convert --help)");
  }
  const ModelFormat format = format_of(args);
  check(args, format);
  if (args.ollama.empty()) check_parent(args.output.output);
  const std::string target = args.ollama.empty() ? args.output.output : args.ollama;
  const Report report(args.report.quiet, args.report.json);
  // Building the network checks every tensor: a broken model is not passed on.
  const AutoencoderKL model = args.model.load();
  if (args.ollama.empty() && !args.output.force) refuse_own_input(target, model.model());
  ConvertOptions options = {.format = format,
                            .original_keys = args.keys == "original",
                            .dtype = {},
                            .overwrite = args.output.force,
                            .progress = {}};
  if (!args.dtype.empty()) options.dtype = weight_dtypes().at(args.dtype);
  const Stopwatch watch;
  {
    ProgressMeter meter("convert " + args.model.name() + " to " + target,
                        args.report.no_progress());
    options.progress = [&meter](double fraction) {
      meter.update(fraction);
      return !interrupted();
    };
    const Interruptible scope;
    convert_model(model.model(), target, options);
  }
  const double seconds = watch.seconds();
  const int64_t bytes = format == ModelFormat::kOllama ? 0 : bytes_at(target);
  report.line(args.model.name() + " -> " + target + ": " + format_name(format) +
              (bytes > 0 ? ", " + format_bytes(bytes) : "") + ", " + format_seconds(seconds));
  report.json({{"command", "convert"},
               {"model", args.model.name()},
               {"target", target},
               {"container", format_name(format)},
               {"keys", args.keys},
               {"dtype", args.dtype.empty() ? Json() : Json(dtype_name(*options.dtype))},
               {"bytes", bytes > 0 ? Json(bytes) : Json()},
               {"seconds", seconds}});
  return 0;
}

}  // namespace

void add_convert(CLI::App& program, Action& action) {
  const auto args = std::make_shared<ConvertArgs>();
  CommandLine line(program, "convert", "Write a model into another container",
                   "calotype convert --model M (-o OUT | --ollama NAME) [OPTIONS]", R"(
  calotype convert --model z-image -o z-image-vae/
  calotype convert --model z-image-vae/ -o vae.safetensors --keys original --dtype bf16
  calotype convert --model vae.safetensors -o vae.gguf --dtype q8_0
  calotype convert --model vae.safetensors --ollama my-vae:latest

The config is written too (into the file's metadata where it is one file), and the
weights keep their bytes without --dtype.)");
  args->output.add(line, "A diffusers folder (OUT/), a .safetensors or a .gguf file",
                   "Overwrite a folder (all weights in it go) or an Ollama name that\n"
                   "exists, or the model's own file");
  line.text("--ollama", args->ollama, "NAME", "A name in the Ollama store ($OLLAMA_MODELS)");
  line.exclude("--ollama", "--output");
  line.choice("--keys", args->keys, {"diffusers", "original"},
              "Names of the tensors: of diffusers (default), or the LDM/BFL ones");
  line.choice("--dtype", args->dtype, {"f32", "f16", "bf16", "q8_0"},
              "Of the weights (default: as they are; q8_0 in .gguf only);\n"
              "FLUX.2's batch-norm statistics always stay as they are");
  args->report.add(line);
  args->model.add(line);
  line.run(action, [args] { return run(*args); });
}

}  // namespace calotype::cli
