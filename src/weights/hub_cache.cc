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
constexpr const char* kFluxFile = "ae.safetensors";

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
  if (const std::string ref = read_ref(folder / "refs" / "main"); !ref.empty()) {
    const fs::path snapshot = folder / "snapshots" / ref;
    if (fs::is_directory(snapshot, ignored)) return snapshot.string();
  }
  fs::path newest;
  fs::file_time_type newest_time{};
  for (const auto& entry : fs::directory_iterator(folder / "snapshots", ignored)) {
    if (!entry.is_directory(ignored)) continue;
    const fs::file_time_type time = entry.last_write_time(ignored);
    if (newest.empty() || time > newest_time) {
      newest = entry.path();
      newest_time = time;
    }
  }
  if (newest.empty()) return std::nullopt;
  return newest.string();
}

bool snapshot_has_vae(const std::string& snapshot) {
  std::error_code ignored;
  return has_diffusers_weights(snapshot) ||
         fs::is_regular_file(fs::path(snapshot) / kFluxFile, ignored);
}

Source read_hub_snapshot(const std::string& snapshot, const LoadOptions& options) {
  const fs::path flux = fs::path(snapshot) / kFluxFile;
  std::error_code ignored;
  if (!has_diffusers_weights(snapshot) && fs::is_regular_file(flux, ignored)) {
    return read_safetensors_source(flux.string(), options);
  }
  return read_diffusers_folder(snapshot, options);
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
