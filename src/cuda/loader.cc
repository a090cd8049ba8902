#include "cuda/loader.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>

#include "core/cat.h"
#include "cuda/build_id.h"
#include "cuda/plugin.h"

namespace calotype {
namespace {

constexpr char kPluginName[] = "libcalotype_cuda.so";

// The folder of the file (library or program) that this code is in.
std::string own_folder() {
  Dl_info info = {};
  const auto address = reinterpret_cast<const void*>(&cuda_plugin_paths);
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code error;
  const std::filesystem::path file = std::filesystem::canonical(info.dli_fname, error);
  if (!error && file.has_parent_path()) return file.parent_path().string();
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? std::string() : program.parent_path().string();
}

// A plugin stays open: its code may run until the process ends.
void* open_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    fail(ErrorCode::kNotFound, "the CUDA plugin ", path,
         " cannot be opened: ", reason != nullptr ? reason : "unknown reason");
  }
  return library;
}

template <class Function>
Function* symbol(void* library, const std::string& path, const char* name) {
  void* address = dlsym(library, name);
  if (address == nullptr) {
    fail(ErrorCode::kNotFound, "the file ", path, " is not a CUDA plugin of Calotype: it has no ",
         name);
  }
  return reinterpret_cast<Function*>(address);
}

std::unique_ptr<DeviceBackend> open_first_plugin() {
  const std::vector<std::string> paths = cuda_plugin_paths();
  for (const std::string& path : paths) {
    if (std::filesystem::exists(path)) return open_cuda_plugin(path);
  }
  std::string places;
  for (const std::string& path : paths) places += (places.empty() ? "" : ", ") + path;
  fail(ErrorCode::kNotFound, "the CUDA plugin ", kPluginName, " is not there (looked for ", places,
       "); build it with `make cuda` or set CALOTYPE_CUDA_PLUGIN to its path");
}

struct Opened {
  std::unique_ptr<DeviceBackend> backend;
  std::string problem;
};

// Tried once in the life of a process.
const Opened& opened() {
  static const Opened result = [] {
    Opened once;
    try {
      once.backend = open_first_plugin();
    } catch (const Error& error) {
      once.problem = error.what();
    }
    return once;
  }();
  return result;
}

}  // namespace

std::string cuda_build_id() { return kCudaBuildId; }

std::vector<std::string> cuda_plugin_paths() {
  const char* chosen = std::getenv("CALOTYPE_CUDA_PLUGIN");
  if (chosen != nullptr && *chosen != '\0') {
    const std::string path = chosen;
    return {path.find('/') == std::string::npos ? "./" + path : path};
  }
  std::vector<std::string> paths;
  const std::string folder = own_folder();
  if (!folder.empty()) {
    paths.push_back(folder + "/" + kPluginName);
    paths.push_back(folder + "/../lib/" + kPluginName);
  }
  // Never a bare name: what runs as our code comes from our own folders alone.
  if (kCudaPluginFolder[0] != '\0') {
    paths.push_back(std::string(kCudaPluginFolder) + "/" + kPluginName);
  }
  return paths;
}

std::unique_ptr<DeviceBackend> open_cuda_plugin(const std::string& path) {
  void* library = open_library(path);
  const std::string id = symbol<CudaBuildIdFunction>(library, path, kCudaBuildIdSymbol)();
  if (id != cuda_build_id()) {
    fail(ErrorCode::kNotFound, "the CUDA plugin ", path, " is of another build (", id,
         ") than the library (", cuda_build_id(), "); build both together");
  }
  return std::unique_ptr<DeviceBackend>(symbol<CudaOpenFunction>(library, path, kCudaOpenSymbol)());
}

DeviceBackend* cuda_backend_or_null(std::string* reason) {
  if (reason != nullptr) *reason = opened().problem;
  return opened().backend.get();
}

bool sees_nvidia_gpu() {
  std::error_code error;
  return std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", error) !=
         std::filesystem::directory_iterator();
}

DeviceBackend& cuda_backend() {
  std::string reason;
  DeviceBackend* backend = cuda_backend_or_null(&reason);
  if (backend == nullptr) fail(ErrorCode::kNotFound, reason);
  return *backend;
}

}  // namespace calotype
