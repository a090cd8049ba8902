// Options that several commands share, and the values that they are made of.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "calotype/image.h"
#include "calotype/latents.h"

namespace calotype::cli {

// Usage line and closing text (examples) of a command's --help.
void set_help(CLI::App& app, const std::string& usage, const std::string& footer);

// A subcommand with its help.
CLI::App* add_command(CLI::App& program, const std::string& name, const std::string& description,
                      const std::string& usage, const std::string& examples);

// An option that takes one of `words`.
CLI::Option* add_choice(CLI::App& app, const std::string& names, std::string& value,
                        const std::vector<std::string>& words, const std::string& description);

// An option that takes a whole number in [low, high].
CLI::Option* add_number(CLI::App& app, const std::string& names, int64_t& value, int64_t low,
                        int64_t high, const std::string& description);

struct Size {
  int64_t width = 0, height = 0;
};
// "1024x768"; checked when the command line is read.
CLI::Option* add_size(CLI::App& app, const std::string& names, std::optional<Size>& value,
                      const std::string& description);

// The embedded model by name, as `calotype list` shows it; a folder of that name is ./embedded.
constexpr const char* kEmbedded = "embedded";

// Which model, and how to trust it.
struct ModelArgs {
  std::string model, family;
  bool verify = false;

  void add(CLI::App& app);
  // --family without --model: a family's config is wanted, not a model.
  bool only_family() const { return model.empty() && !family.empty(); }
  // Refuses only_family().
  AutoencoderKL load() const;
  std::string name() const { return model.empty() ? kEmbedded : model; }
};

// How to compute.
struct RunArgs {
  std::string backend, precision;  // empty: what the library takes
  int64_t threads = 0;             // 0: not given
  std::string memory, scratch;

  void add(CLI::App& app);
  // Also checks the environment variables that the library reads: a bad one is wrong usage.
  RunOptions options() const;
};

struct ReportArgs {
  bool quiet = false, json = false;

  void add(CLI::App& app,
           const std::string& quiet_description = "Print errors only: no progress, no report");
};

// Where results go; see outputs.h for what -o may be.
struct OutputArgs {
  std::string output;
  bool force = false;

  CLI::Option* add(
      CLI::App& app, const std::string& what,
      const std::string& force_description = "Overwrite files that exist where -o is a folder");
};

// How pictures are read.
struct PictureInArgs {
  std::string background = "white";
  std::optional<Size> resize;

  void add(CLI::App& app);
  Tensor read(const std::string& path) const;
};

// How pictures are written.
struct PictureOutArgs {
  std::string format;  // empty: by suffix
  int64_t quality = 95, bit_depth = 8;

  void add(CLI::App& app);
  // By --format, else by the suffix of `path` ("-" and folders: PNG).
  ImageFormat format_of(const std::string& path) const;
  WriteImageOptions options() const;
};

const std::map<std::string, DType>& weight_dtypes();  // f32, f16, bf16, q8_0

// "file.png" for the messages of a person; "standard input" for "-".
std::string display_name(const std::string& path, bool input);

}  // namespace calotype::cli
