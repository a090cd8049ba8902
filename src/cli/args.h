// Options that several commands share, and the values that they are made of.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "calotype/autoencoder_kl.h"
#include "calotype/error.h"
#include "calotype/image.h"
#include "calotype/tensor.h"
#include "cli/command_line.h"

namespace calotype::cli {

// The embedded model by name, as `calotype list` shows it; a folder of that name is ./embedded.
constexpr const char* kEmbedded = "embedded";

// Which model, and how to trust it.
struct ModelArgs {
  std::string model, family;
  bool verify = false;

  void add(CommandLine& line);
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
  int64_t device = 0;
  std::string memory, scratch;

  void add(CommandLine& line);
  // Also checks the environment variables that the library reads: a bad one is wrong usage.
  RunOptions options() const;
};

// What a job runs on, for people and in JSON.
struct Machine {
  std::string backend;    // "cpu", "cuda" or "reference"
  std::string precision;  // "f32", …; of a GPU as its name says
  std::string name;       // "CPU, f32", "NVIDIA H100 80GB HBM3 (sm_90a kernels, bf16)"
  std::string reason;     // why it is the CPU, where there is a GPU that nobody refused
};
Machine machine_of(const AutoencoderKL& model, const RunArgs& args);

// latent_space_hash; empty where a model has none, so that only raw z can be used.
std::string latent_space_of(const AutoencoderKL& model);

struct ReportArgs {
  bool quiet = false, json = false;

  void add(CommandLine& line,
           const std::string& quiet_description = "Print errors only: no progress, no report");
  // Who reads JSON wants no other lines between.
  bool no_progress() const { return quiet || json; }
};

// Where results go; see outputs.h for what -o may be.
struct OutputArgs {
  std::string output;
  bool force = false;

  void add(
      CommandLine& line, const std::string& what,
      const std::string& force_description = "Overwrite files that exist where -o is a folder");
};

// How pictures are read.
struct PictureInArgs {
  std::string background = "white";
  std::optional<Size> resize;

  void add(CommandLine& line);
  // Throws Error(kOutOfMemory) where that would take more than `memory` bytes.
  Tensor read(const std::string& path, int64_t memory) const;
};

// How pictures are written.
struct PictureOutArgs {
  std::string format;     // empty: by suffix
  int64_t quality = 0;    // 0: not given
  std::string bit_depth;  // empty: not given

  void add(CommandLine& line);
  // By --format, else by the suffix of `path` ("-" and folders: PNG).
  ImageFormat format_of(const std::string& path) const;
  // Refuses options that none of the `formats` written has.
  void check(const std::vector<ImageFormat>& formats) const;
  WriteImageOptions options() const;
};

const std::map<std::string, DType>& weight_dtypes();  // f32, f16, bf16, q8_0

// job(); what it throws is the fault of who typed the command.
template <class Job>
auto as_usage(const Job& job) {
  try {
    return job();
  } catch (const Error& error) {
    throw Error(ErrorCode::kInvalidArgument, error.what());
  }
}

// "file.png" for the messages of a person; "standard input" for "-".
std::string display_name(const std::string& path, bool input);

}  // namespace calotype::cli
