#include "cli/outputs.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "calotype/error.h"
#include "cli/report.h"

namespace calotype::cli {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void wrong_usage(const std::string& sentence) {
  throw Error(ErrorCode::kInvalidArgument, sentence);
}

[[noreturn]] void refuse_same_output(const std::string& input, const std::string& other,
                                     const std::string& path) {
  wrong_usage(input + " and " + other + " would both be written to " + path +
              "; rename one, or use a folder for each");
}

std::string in_folder(const std::string& folder, const std::string& input,
                      const std::string& suffix) {
  const std::string stem = input == "-" ? "stdin" : fs::path(input).stem().string();
  return (fs::path(folder) / (stem + suffix)).string();
}

void check_inputs(const std::vector<std::string>& inputs) {
  if (std::ranges::count(inputs, "-") > 1) wrong_usage("standard input (-) can be read only once");
}

}  // namespace

bool same_file(const std::string& a, const std::string& b) {
  std::error_code ignored;
  return fs::equivalent(a, b, ignored);
}

bool names_folder(const std::string& output) {
  std::error_code ignored;
  return output.ends_with('/') || fs::is_directory(output, ignored);
}

std::vector<std::string> plan_outputs(const std::vector<std::string>& inputs,
                                      const std::string& output, const std::string& suffix,
                                      bool force) {
  check_inputs(inputs);
  if (output == "-" && ::isatty(STDOUT_FILENO) == 1) {
    wrong_usage("standard output is a terminal; redirect it, or name a file with -o");
  }
  const bool folder = names_folder(output);
  if (!folder && inputs.size() > 1) {
    const std::string example = output == "-" ? "DIR" : output;
    wrong_usage(std::to_string(inputs.size()) + " inputs need a folder to write to, but " + output +
                " is none; make it and say -o " + example + "/");
  }
  if (folder && !fs::is_directory(output)) {
    throw Error(ErrorCode::kNotFound,
                output + ": this folder does not exist; make it with mkdir -p " + output);
  }
  std::vector<std::string> outputs;
  std::map<std::string, std::string> maker;
  for (const std::string& input : inputs) {
    const std::string path = folder ? in_folder(output, input, suffix) : output;
    const auto [other, is_new] = maker.emplace(path, input);
    if (!is_new) {
      refuse_same_output(other->second, input, path);
    }
    if (!folder) check_parent(path);
    if (same_file(input, path) && !force) {
      wrong_usage(path + " is the input itself; name another output, or say --force");
    }
    if (folder && !force) refuse_existing(path);
    outputs.push_back(path);
  }
  return outputs;
}

std::vector<std::string> numbered_outputs(const std::string& path, int64_t count) {
  const fs::path whole(path);
  const std::string stem = (whole.parent_path() / whole.stem()).string();
  const int digits = std::max(4, static_cast<int>(std::to_string(count).size()));
  std::vector<std::string> paths;
  for (int64_t i = 1; i <= count; ++i) {
    const std::string number = printf_string("-%0*lld", digits, static_cast<long long>(i));
    paths.push_back(stem + number + whole.extension().string());
  }
  return paths;
}

void check_parent(const std::string& path) {
  // "out/" is in "."
  const std::string name = path.substr(0, path.find_last_not_of('/') + 1);
  const fs::path folder = fs::path(name).parent_path();
  std::error_code ignored;
  if (!folder.empty() && !fs::is_directory(folder, ignored)) {
    throw Error(ErrorCode::kNotFound,
                path + ": cannot be written: the folder " + folder.string() + " does not exist");
  }
}

void refuse_existing(const std::string& path) {
  std::error_code ignored;
  if (fs::exists(path, ignored)) {
    throw Error(ErrorCode::kIo, path + ": exists already; say --force to overwrite it");
  }
}

}  // namespace calotype::cli
