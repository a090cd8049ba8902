// convert_model: a model written as another container, with its config.
#include <algorithm>
#include <filesystem>
#include <memory>

#include "calotype/model_source.h"
#include "core/cat.h"
#include "core/file.h"
#include "core/narrowing.h"
#include "weights/gguf.h"
#include "weights/names.h"
#include "weights/ollama.h"
#include "weights/safetensors.h"
#include "weights/source.h"

namespace calotype {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPiece = int64_t{1} << 20;  // elements converted, and bytes written, at a time
constexpr int64_t kQ8Block = 32;

// Of a weight, what Q8_0 can hold: rows of whole blocks. Biases and norms are small, and keep their
// precision.
bool is_quantisable(const TensorView& view) {
  if (view.shape.size() < 2 || view.shape[0] == 0) return false;
  return element_count(view.shape) / view.shape[0] % kQ8Block == 0;
}

// FLUX.2's statistics are part of what defines the latents: rounded ones would be another space.
bool defines_latent_space(const std::string& name) { return name.starts_with("bn."); }

DType target_dtype(const std::string& name, const TensorView& view, const ConvertOptions& options) {
  const bool gguf = options.format == ModelFormat::kGguf;
  const auto is_held = [gguf](DType dtype) {
    return gguf ? is_gguf_dtype(dtype) : dtype != DType::kQ8_0;
  };
  // F32 holds what F8 and Q8_0 do.
  if (defines_latent_space(name)) return is_held(view.dtype) ? view.dtype : DType::kF32;
  DType dtype = options.dtype.value_or(view.dtype);
  if (options.dtype == DType::kQ8_0 && !is_quantisable(view)) {
    dtype = is_gguf_dtype(view.dtype) ? view.dtype : DType::kF32;
  }
  if (!is_held(dtype)) {
    fail(ErrorCode::kUnsupported, "the tensor \"", name, "\" has the dtype ", dtype_name(dtype),
         ", which ", gguf ? "GGUF" : "safetensors", " does not have; choose F32, F16 or BF16");
  }
  return dtype;
}

void write_converted(const std::string& name, const TensorView& view, DType dtype,
                     const ByteSink& sink) {
  std::vector<float> values;
  std::vector<std::byte> bytes;
  const int64_t count = view.size();
  for (int64_t first = 0; first < count; first += kPiece) {
    values.resize(static_cast<size_t>(std::min(kPiece, count - first)));
    copy_elements(view, first, values);
    check_narrowing(values, dtype, cat("the tensor \"", name, "\""));
    bytes.resize(static_cast<size_t>(byte_count(dtype, {static_cast<int64_t>(values.size())})));
    convert_elements(values, dtype, bytes.data());
    sink(bytes);
  }
}

void write_same(const TensorView& view, const ByteSink& sink) {
  const int64_t bytes = byte_count(view.dtype, view.shape);
  for (int64_t first = 0; first < bytes; first += kPiece) {
    sink({view.data + first, static_cast<size_t>(std::min(kPiece, bytes - first))});
  }
}

Shape target_shape(const std::string& name, const TensorView& view, const ConvertOptions& options) {
  Shape shape = view.shape;
  if (options.original_keys && is_attention_weight(name) && shape.size() == 2) {
    shape.insert(shape.end(), {1, 1});
  }
  return shape;
}

// A batch norm of PyTorch has this counter, and diffusers looks for it.
SafetensorsEntry batches_tracked() {
  return {"bn.num_batches_tracked", DType::kI64, {}, [](const ByteSink& sink) {
            const std::byte zero[sizeof(int64_t)] = {};
            sink(zero);
          }};
}

std::vector<SafetensorsEntry> entries_of(const Model& model, const ConvertOptions& options) {
  const auto levels = static_cast<int>(model.config.block_out_channels.size());
  const bool flux2 = model.config.is_flux2();
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, view] : model.tensors) {
    SafetensorsEntry entry;
    entry.name = options.original_keys ? original_name(name, levels, flux2) : name;
    entry.dtype = target_dtype(name, view, options);
    entry.shape = target_shape(name, view, options);
    entry.write = [name = name, view = view, dtype = entry.dtype](const ByteSink& sink) {
      if (dtype == view.dtype) {
        write_same(view, sink);
      } else {
        write_converted(name, view, dtype, sink);
      }
    };
    entries.push_back(std::move(entry));
  }
  const bool safetensors = options.format == ModelFormat::kSafetensors ||
                           options.format == ModelFormat::kDiffusersFolder;
  if (safetensors && model.tensors.contains("bn.running_mean")) {
    entries.push_back(batches_tracked());
  }
  return entries;
}

// Weights of the model that was there before: diffusers would load shards rather than the new file.
void remove_weights(const fs::path& folder, const std::string& but) {
  for (const std::string& name : diffusers_weight_files(folder.string())) {
    if (name == but) continue;
    std::error_code error;
    fs::remove(folder / name, error);
    if (error) {
      fail(ErrorCode::kIo, (folder / name).string(), ": is of the model that was here before, and ",
           "cannot be removed: ", error.message());
    }
  }
}

void write_folder(const Model& model, const fs::path& folder, std::vector<SafetensorsEntry> entries,
                  bool overwrite, const std::function<void(int64_t, int64_t)>& progress) {
  const std::string name = "diffusion_pytorch_model.safetensors";
  const fs::path config = folder / "config.json", weights = folder / name, vae = folder / "vae";
  std::error_code error;
  if (!diffusers_weight_files(vae.string()).empty()) {
    fail(ErrorCode::kInvalidArgument, folder.string(), ": is the folder of a pipeline, whose ",
         "autoencoder is read from ", vae.string(), "; write to that folder");
  }
  if (!overwrite &&
      (fs::exists(config, error) || !diffusers_weight_files(folder.string()).empty())) {
    fail(ErrorCode::kIo, folder.string(), ": holds a model already; overwrite it with --force");
  }
  const bool is_new = fs::create_directory(folder, error);
  if (error) {
    fail(ErrorCode::kIo, folder.string(), ": the folder cannot be made: ", error.message());
  }
  try {
    // diffusers' own writer sets this, and readers of old look for it.
    write_safetensors(weights.string(), {{"format", "pt"}}, std::move(entries), progress);
    write_file(config.string(), model.config.to_json());
  } catch (...) {
    if (is_new) fs::remove_all(folder, error);
    throw;
  }
  remove_weights(folder, name);
}

void check_dtype(const ConvertOptions& options) {
  if (!options.dtype) return;
  const DType dtype = *options.dtype;
  if (dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16) return;
  if (dtype == DType::kQ8_0 && options.format == ModelFormat::kGguf) return;
  fail(ErrorCode::kInvalidArgument,
       "models are converted to F32, F16 and BF16, GGUF also to Q8_0, ", "not to ",
       dtype_name(dtype));
}

}  // namespace

void convert_model(const Model& model, const std::string& target, const ConvertOptions& options) {
  check_dtype(options);
  const bool single =
      options.format == ModelFormat::kSafetensors || options.format == ModelFormat::kGguf;
  if (options.original_keys && !single) {
    fail(ErrorCode::kInvalidArgument,
         "only single safetensors and GGUF files are written with original names");
  }
  const std::vector<SafetensorsEntry> entries = entries_of(model, options);
  const auto progress = [&](int64_t done, int64_t total) {
    if (!options.progress || total == 0) return;
    if (!options.progress(static_cast<double>(done) / static_cast<double>(total))) {
      fail(ErrorCode::kCancelled, "the conversion was cancelled");
    }
  };
  switch (options.format) {
    case ModelFormat::kDiffusersFolder:
      return write_folder(model, target, entries, options.overwrite, progress);
    case ModelFormat::kSafetensors:
      return write_safetensors(target, {{"format", "pt"}, {kConfigKey, model.config.to_json()}},
                               entries, progress);
    case ModelFormat::kGguf:
      return write_gguf(
          target,
          {{"general.architecture", "autoencoder_kl"}, {kConfigKey, model.config.to_json()}},
          entries, progress);
    case ModelFormat::kOllama: {
      const auto name = OllamaName::parse(target);
      if (!name) {
        fail(ErrorCode::kInvalidArgument, "\"", target,
             "\" is no Ollama name; it should look like name, name:tag or space/name:tag");
      }
      return write_ollama_model(*name, model.config.to_json(), entries, options.overwrite,
                                progress);
    }
  }
}

}  // namespace calotype
