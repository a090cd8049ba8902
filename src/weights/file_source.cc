// A model that is one file: told apart by what is in it, not by its suffix.
#include <algorithm>
#include <array>
#include <filesystem>

#include "core/cat.h"
#include "core/file.h"
#include "core/sha256.h"
#include "weights/gguf.h"
#include "weights/ollama.h"
#include "weights/safetensors.h"
#include "weights/source.h"

namespace calotype {
namespace {

namespace fs = std::filesystem;

bool starts_with(std::span<const std::byte> bytes, std::initializer_list<int> magic) {
  return bytes.size() >= magic.size() &&
         std::equal(magic.begin(), magic.end(), bytes.begin(),
                    [](int a, std::byte b) { return static_cast<std::byte>(a) == b; });
}

// By suffix, or as a zip file (PyTorch since 1.6) or a pickle of protocol 2 to 5.
bool is_pickle(const std::string& path, std::span<const std::byte> bytes) {
  constexpr std::array<std::string_view, 5> kSuffixes = {".bin", ".ckpt", ".pt", ".pth", ".pkl"};
  const std::string suffix = fs::path(path).extension().string();
  if (std::ranges::find(kSuffixes, suffix) != kSuffixes.end()) return true;
  if (starts_with(bytes, {'P', 'K', 3, 4})) return true;
  return starts_with(bytes, {0x80, 2}) || starts_with(bytes, {0x80, 3}) ||
         starts_with(bytes, {0x80, 4}) || starts_with(bytes, {0x80, 5});
}

// The hub cache's files are links, those of weights to blobs that are named by their SHA-256.
void check_hub_digest(const std::string& path, std::span<const std::byte> bytes) {
  constexpr size_t kDigits = 64;
  std::error_code ignored;
  const std::string name = fs::canonical(path, ignored).filename().string();
  if (name.size() != kDigits || name.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return;
  }
  const std::string found = sha256_hex(bytes);
  if (found != name) {
    fail(ErrorCode::kInvalidData, path, ": has the digest sha256:", found, ", but is the blob ",
         name, " of the cache; remove it and download it again");
  }
}

// The weights of a diffusers folder, named by their own path, still have its config.json.
Source with_config_beside(Source source, const std::string& path) {
  const fs::path file(path), config = file.parent_path() / "config.json";
  std::error_code ignored;
  if (source.config || !file.filename().string().starts_with("diffusion_pytorch_model") ||
      !fs::is_regular_file(config, ignored)) {
    return source;
  }
  source.config_file = config.string();
  source.config = read_text_file(source.config_file);
  return source;
}

bool begins_with_brace(std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) {
    const char c = static_cast<char>(byte);
    if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return c == '{';
  }
  return false;
}

}  // namespace

std::string read_text_file(const std::string& path) {
  constexpr size_t kLimit = size_t{16} << 20;
  const std::vector<std::byte> bytes = read_file(path, kLimit);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Source read_safetensors_source(const std::string& path, const LoadOptions& options) {
  const auto mapped = MappedFile::open(path);
  if (options.verify) check_hub_digest(path, mapped->bytes());
  SafetensorsFile file = parse_safetensors(mapped->bytes(), path);
  Source source;
  source.container = "safetensors";
  source.name = source.file = path;
  source.tensors = std::move(file.tensors);
  source.unreadable = std::move(file.unreadable);
  if (const auto config = file.metadata.find(kConfigKey); config != file.metadata.end()) {
    source.config = config->second;
    source.config_file = cat(path, " (its metadata ", kConfigKey, ")");
  }
  source.storage.push_back(mapped);
  return source;
}

Source read_gguf_source(const std::string& path, const LoadOptions& options) {
  const auto mapped = MappedFile::open(path);
  if (options.verify) check_hub_digest(path, mapped->bytes());
  GgufFile file = parse_gguf(mapped->bytes(), path);
  Source source;
  source.container = "gguf";
  source.name = source.file = path;
  source.tensors = std::move(file.tensors);
  source.unreadable = std::move(file.unreadable);
  if (const auto config = file.strings.find(kConfigKey); config != file.strings.end()) {
    source.config = config->second;
    source.config_file = cat(path, " (its key ", kConfigKey, ")");
  }
  source.storage.push_back(mapped);
  return source;
}

void refuse_pickle(const std::string& path) {
  fail(ErrorCode::kUnsupported, path,
       ": is a pickle file, which may run any program when it is read; convert it to safetensors "
       "with a tool that you trust");
}

Source read_file_source(const std::string& path, const LoadOptions& options) {
  const auto mapped = MappedFile::open(path);
  const auto bytes = mapped->bytes();
  const std::string suffix = fs::path(path).extension().string();
  if (looks_like_gguf(bytes)) return read_gguf_source(path, options);
  if (looks_like_safetensors(bytes)) {
    return with_config_beside(read_safetensors_source(path, options), path);
  }
  if (is_pickle(path, bytes)) refuse_pickle(path);
  // These say what is wrong with the file.
  if (suffix == ".safetensors") return read_safetensors_source(path, options);
  if (suffix == ".gguf") return read_gguf_source(path, options);
  if (begins_with_brace(bytes)) return read_ollama_manifest(path, options);
  fail(ErrorCode::kInvalidData, path,
       ": is neither a safetensors nor a GGUF file, nor an Ollama manifest");
}

}  // namespace calotype
