#include "cli/outputs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "calotype/error.h"
#include "cli/report.h"

namespace calotype::cli {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void wrong_usage(const std::string& sentence) {
  throw Error(ErrorCode::kInvalidArgument, sentence);
}

// Where writing to `path` ends: links are followed, those too whose target does not exist yet.
std::string destination(const std::string& path) {
  if (path == "-") return path;
  constexpr int kMostLinks = 40;  // as Linux
  std::error_code ignored;
  fs::path target = fs::absolute(path, ignored);
  for (int i = 0; i < kMostLinks && fs::is_symlink(target, ignored); ++i) {
    target = target.parent_path() / fs::read_symlink(target, ignored);
  }
  const fs::path canonical = fs::weakly_canonical(target, ignored);
  return (ignored ? target : canonical).string();
}

// Throws Error(kInvalidArgument) where `path` is the file of the model, or the weights in its
// folder: --force is no help, since nothing would be left to run with.
void refuse_model(const std::string& path, const std::string& model) {
  const auto refuse_if = [&](bool same) {
    if (same) wrong_usage(path + " is the model itself; name another output");
  };
  if (model.empty()) return;
  refuse_if(same_file(path, model));
  for (const fs::path& folder : {fs::path(model), fs::path(model) / "vae"}) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(folder, ignored)) {
      const std::string name = entry.path().filename().string();
      refuse_if(name.starts_with("diffusion_pytorch_model") &&
                same_file(path, entry.path().string()));
    }
  }
}

std::string in_folder(const std::string& folder, const std::string& input,
                      const std::string& suffix) {
  const std::string stem = input == "-" ? "stdin" : fs::path(input).stem().string();
  return (fs::path(folder) / (stem + suffix)).string();
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

void refuse_existing(const std::string& path) {
  std::error_code ignored;
  if (fs::exists(path, ignored)) {
    throw Error(ErrorCode::kIo, path + ": exists already; say --force to overwrite it");
  }
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

OutputPlan::OutputPlan(const std::vector<std::string>& inputs, const std::string& model, bool force)
    : inputs_(inputs), model_(model), force_(force) {
  if (std::ranges::count(inputs, "-") > 1) wrong_usage("standard input (-) can be read only once");
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i] != "-") readers_.emplace(destination(inputs[i]), i);
  }
}

std::vector<std::string> OutputPlan::add(const std::string& output, const std::string& suffix) {
  if (output == "-" && ::isatty(STDOUT_FILENO) == 1) {
    wrong_usage("standard output is a terminal; redirect it, or name a file with -o");
  }
  const bool folder = names_folder(output);
  if (!folder && inputs_.size() > 1) {
    const std::string example = output == "-" ? "DIR" : output;
    wrong_usage(std::to_string(inputs_.size()) + " inputs need a folder to write to, but " +
                output + " is none; make it and say -o " + example + "/");
  }
  if (folder && !fs::is_directory(output)) {
    throw Error(ErrorCode::kNotFound,
                output + ": this folder does not exist; make it with mkdir -p " + output);
  }
  std::vector<std::string> outputs;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const std::string path = folder ? in_folder(output, inputs_[i], suffix) : output;
    if (!folder) check_parent(path);
    claim(i, path);
    if (folder && !force_) refuse_existing(path);
    outputs.push_back(path);
  }
  return outputs;
}

std::vector<std::string> OutputPlan::add_numbered(size_t i, const std::string& path,
                                                  int64_t count) {
  std::vector<std::string> paths = numbered_outputs(path, count);
  for (const std::string& numbered : paths) {
    claim(i, numbered);
    if (!force_) refuse_existing(numbered);
  }
  return paths;
}

void OutputPlan::claim(size_t i, const std::string& path) {
  const std::string target = destination(path);
  const std::string& input = inputs_[i];
  const auto [writer, is_new] = writers_.emplace(target, i);
  if (!is_new && writer->second == i) {
    wrong_usage("two results of " + input + " would be written to " + path +
                "; give each a name of its own");
  }
  if (!is_new) {
    wrong_usage(inputs_[writer->second] + " and " + input + " would both be written to " + path +
                "; rename one, or use a folder for each");
  }
  if (path == "-") return;
  refuse_model(path, model_);
  const auto reader = readers_.find(target);
  if (reader != readers_.end() && reader->second != i) {
    wrong_usage("the result of " + input + " would replace the input " + path +
                "; use another folder");
  }
  if (!force_ && (reader != readers_.end() || same_file(input, path))) {
    wrong_usage(path + " is the input itself; name another output, or say --force");
  }
  probe(path);
}

// A file that cannot be written is said before minutes of work, not after.
void OutputPlan::probe(const std::string& path) {
  const auto refuse = [&](int error) {
    throw Error(ErrorCode::kIo, path + ": cannot be written: " + std::strerror(error));
  };
  struct stat info;
  const bool exists = ::stat(path.c_str(), &info) == 0;
  if (!exists && errno != ENOENT) refuse(errno);
  if (exists && !S_ISREG(info.st_mode)) {
    if (::access(path.c_str(), W_OK) != 0) refuse(errno);
    return;
  }
  const std::string folder = fs::path(destination(path)).parent_path().string();
  if (!probed_.insert(folder).second) return;
  std::string name = folder + "/.calotype-XXXXXX";
  const int file = ::mkostemp(name.data(), O_CLOEXEC);
  if (file < 0) refuse(errno);
  ::close(file);
  ::unlink(name.c_str());
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

}  // namespace calotype::cli
