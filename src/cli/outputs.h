// Which files a job will write, decided before it runs.
//
// -o names one file, which is overwritten; or a folder (it exists, or ends in '/'), where each
// input gives a file of its own name and nothing that exists is overwritten without --force; or
// "-", standard output.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace calotype::cli {

bool names_folder(const std::string& output);

// True where both exist and are one, by whatever name.
bool same_file(const std::string& a, const std::string& b);

// One output an input. Throws Error(kInvalidArgument) where inputs and -o do not fit, two inputs
// would give one file, or a file would replace its own input without `force`; Error(kNotFound)
// where a folder does not exist; Error(kIo) where a file exists that may not be overwritten.
// `suffix`: of the files in a folder, ".png".
std::vector<std::string> plan_outputs(const std::vector<std::string>& inputs,
                                      const std::string& output, const std::string& suffix,
                                      bool force);

// "name-0001.png", "name-0002.png", …: those of a batch of `count`.
std::vector<std::string> numbered_outputs(const std::string& path, int64_t count);

// Throws Error(kNotFound) where the folder that `path` would be in does not exist.
void check_parent(const std::string& path);

// Throws Error(kIo) where `path` exists.
void refuse_existing(const std::string& path);

}  // namespace calotype::cli
