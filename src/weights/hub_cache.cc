#include "weights/hub_cache.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>

#include "core/cat.h"
#include "core/file.h"

namespace calotype {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxRef = 256;
constexpr std::string_view kFolderPrefix = "models--";
constexpr const char* kFluxFile = "ae.safetensors";  // beside FLUX's transformer

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool is_plain(std::string_view part) {
  return !part.empty() && part != "." && part != ".." && std::ranges::all_of(part, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
}

// "org/name" or "name" to "models--org--name"; empty where it is no repo id.
std::string folder_name(const std::string& repo) {
  const size_t slash = repo.find('/');
  if (slash == std::string::npos) return is_plain(repo) ? cat(kFolderPrefix, repo) : "";
  const std::string org = repo.substr(0, slash), name = repo.substr(slash + 1);
  return is_plain(org) && is_plain(name) ? cat(kFolderPrefix, org, "--", name) : "";
}

std::string read_ref(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return "";
  const std::vector<std::byte> bytes = read_file(path.string(), kMaxRef);
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return is_plain(text) ? text : "";
}

// The snapshot of refs/main, then the others from the newest to the oldest.
std::vector<fs::path> snapshots_of(const fs::path& folder) {
  std::vector<std::pair<fs::file_time_type, fs::path>> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder / "snapshots", ignored)) {
    if (entry.is_directory(ignored))
      found.emplace_back(entry.last_write_time(ignored), entry.path());
  }
  const std::string ref = read_ref(folder / "refs" / "main");
  std::ranges::sort(found, [&](const auto& a, const auto& b) {
    const bool a_is_main = a.second.filename() == ref, b_is_main = b.second.filename() == ref;
    return a_is_main != b_is_main ? a_is_main : a > b;
  });
  std::vector<fs::path> snapshots;
  snapshots.reserve(found.size());
  for (auto& [time, path] : found) snapshots.push_back(std::move(path));
  return snapshots;
}

// Most models with one file at the root are language models. A file that cannot be read may hold an
// autoencoder: reading it again says what is wrong with it.
bool may_hold_vae(const std::string& file) {
  try {
    const Source source = read_safetensors_source(file, {});
    for (const char* prefix : {"", "vae.", "first_stage_model."}) {
      for (const char* half : {"encoder", "decoder"}) {
        if (source.tensors.contains(cat(prefix, half, ".conv_in.weight"))) return true;
      }
    }
    return false;
  } catch (const Error&) {
    return true;
  }
}

// The files at the root of a snapshot that hold an autoencoder; ae.safetensors alone where it is.
std::vector<std::string> root_files(const std::string& snapshot) {
  std::error_code ignored;
  const fs::path flux = fs::path(snapshot) / kFluxFile;
  if (fs::is_regular_file(flux, ignored)) return {flux.string()};
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(snapshot, ignored)) {
    const fs::path& path = entry.path();
    const bool is_shard = path.filename().string().find("-of-") != std::string::npos;
    if (path.extension() != ".safetensors" || is_shard || !entry.is_regular_file(ignored)) continue;
    if (may_hold_vae(path.string())) files.push_back(path.string());
  }
  std::ranges::sort(files);
  return files;
}

}  // namespace

std::string hub_cache_folder() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (std::string value = environment(name); !value.empty()) return value;
  }
  if (const std::string home = environment("HF_HOME"); !home.empty()) {
    return (fs::path(home) / "hub").string();
  }
  if (const std::string cache = environment("XDG_CACHE_HOME"); !cache.empty()) {
    return (fs::path(cache) / "huggingface" / "hub").string();
  }
  const std::string home = environment("HOME");
  return home.empty() ? "" : (fs::path(home) / ".cache" / "huggingface" / "hub").string();
}

std::optional<std::string> find_hub_snapshot(const std::string& repo) {
  const std::string cache = hub_cache_folder(), name = folder_name(repo);
  if (cache.empty() || name.empty()) return std::nullopt;
  const fs::path folder = fs::path(cache) / name;
  std::error_code ignored;
  if (!fs::is_directory(folder / "snapshots", ignored)) return std::nullopt;
  const std::vector<fs::path> snapshots = snapshots_of(folder);
  if (snapshots.empty()) return std::nullopt;
  const auto with_vae = std::ranges::find_if(snapshots, snapshot_has_vae,
                                             [](const fs::path& path) { return path.string(); });
  return (with_vae == snapshots.end() ? snapshots.front() : *with_vae).string();
}

bool snapshot_has_vae(const std::string& snapshot) {
  return has_diffusers_weights(snapshot) || !root_files(snapshot).empty();
}

Source read_hub_snapshot(const std::string& snapshot, const LoadOptions& options) {
  if (has_diffusers_weights(snapshot)) return read_diffusers_folder(snapshot, options);
  const std::vector<std::string> files = root_files(snapshot);
  if (files.empty()) return read_diffusers_folder(snapshot, options);  // says what it misses
  if (files.size() > 1) {
    std::string names;
    for (const std::string& file : files) {
      names += cat(names.empty() ? "" : ", ", fs::path(file).filename().string());
    }
    fail(ErrorCode::kInvalidData, snapshot, ": has several files with an autoencoder: ", names,
         "; name one by its path");
  }
  return read_safetensors_source(files.front(), options);
}

std::vector<std::string> list_hub_repos() {
  std::vector<std::string> repos;
  const std::string cache = hub_cache_folder();
  if (cache.empty()) return repos;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(cache, ignored)) {
    std::string name = entry.path().filename().string();
    if (!name.starts_with(kFolderPrefix)) continue;
    name.erase(0, kFolderPrefix.size());
    if (const size_t separator = name.find("--"); separator != std::string::npos) {
      name.replace(separator, 2, "/");
    }
    repos.push_back(name);
  }
  std::ranges::sort(repos);
  return repos;
}

}  // namespace calotype
