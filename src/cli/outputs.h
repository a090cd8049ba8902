// Which files a job will write, decided before it runs.
//
// -o names one file, which is overwritten; or a folder (it exists, or ends in '/'), where each
// input gives a file of its own name and nothing that exists is overwritten without --force; or
// "-", standard output.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace calotype::cli {

bool names_folder(const std::string& output);

// True where both exist and are one, by whatever name.
bool same_file(const std::string& a, const std::string& b);

// All that a run reads and writes, so that no file of it replaces another. Files are told apart by
// where their paths lead, links included.
class OutputPlan {
 public:
  // `model`: as --model names it; empty where there is none.
  OutputPlan(const std::vector<std::string>& inputs, const std::string& model, bool force);

  // One output an input, as the option -o (or --compare) asks for. Throws Error(kInvalidArgument)
  // where inputs and `output` do not fit, two results would be one file, or a file would replace
  // the model, another input, or its own input without `force`; Error(kNotFound) where a folder
  // does not exist; Error(kIo) where a file cannot be written, or exists and may not be
  // overwritten. `suffix`: of the files in a folder, ".png".
  std::vector<std::string> add(const std::string& output, const std::string& suffix);

  // "name-0001.png", "name-0002.png", …: of input `i`, which turned out to be a batch of `count`.
  // Throws Error(kInvalidArgument) and Error(kIo) likewise.
  std::vector<std::string> add_numbered(size_t i, const std::string& path, int64_t count);

 private:
  void claim(size_t i, const std::string& path);
  void probe(const std::string& path);

  const std::vector<std::string>& inputs_;
  const std::string model_;
  const bool force_;
  std::map<std::string, size_t> readers_, writers_;  // by destination: the input
  std::set<std::string> probed_;                     // folders that can be written to
};

// Throws Error(kNotFound) where the folder that `path` would be in does not exist.
void check_parent(const std::string& path);

}  // namespace calotype::cli
