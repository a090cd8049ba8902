// The safetensors container (https://github.com/huggingface/safetensors): an 8-byte little-endian
// length, a JSON header {"name": {"dtype", "shape", "data_offsets"}, "__metadata__": {…}}, the
// tensors' bytes.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "calotype/tensor.h"

namespace calotype {

struct SafetensorsFile {
  std::map<std::string, TensorView> tensors;  // point into the bytes that were parsed
  std::map<std::string, std::string> metadata;
  // Tensors of dtypes that safetensors has and Calotype has not (name -> "F8_E8M0"): no fault of
  // the file unless one is needed.
  std::map<std::string, std::string> unreadable;
};

// Checks everything before it returns: header length, JSON, dtypes, shapes, offsets; tensors must
// cover the bytes after the header without overlap, hole or rest. No tensor's data is read. Throws
// Error(kInvalidData) naming `file` and the tensor. Valid as long as `bytes` are.
SafetensorsFile parse_safetensors(std::span<const std::byte> bytes, const std::string& file);

// True where `bytes` begin as a safetensors file does: a length, then "{".
bool looks_like_safetensors(std::span<const std::byte> bytes);

// The dtype that dtype_name spells so ("F32", "BF16", …).
std::optional<DType> dtype_named(std::string_view name);

// A tensor to write: `write` calls its sink one or more times, with byte_count(dtype, shape) bytes
// in all. It may be called more than once and must give the same bytes each time.
using ByteSink = std::function<void(std::span<const std::byte>)>;
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::function<void(const ByteSink&)> write;

  // The view's own bytes; the view must stay valid until the file is written.
  static SafetensorsEntry of(std::string name, const TensorView& view);
};

// Writes header and tensors, in the order that the safetensors package uses (widest dtype first,
// then by name), so that every tensor is aligned. The file appears whole or not at all; "-" is
// standard output. `progress`, when given, is called with the bytes written so far and in all.
void write_safetensors(const std::string& path, const std::map<std::string, std::string>& metadata,
                       std::vector<SafetensorsEntry> entries,
                       const std::function<void(int64_t done, int64_t total)>& progress = {});
std::vector<std::byte> safetensors_bytes(const std::map<std::string, std::string>& metadata,
                                         std::vector<SafetensorsEntry> entries);
// The same bytes, piece by piece.
void write_safetensors_to(const ByteSink& sink, const std::map<std::string, std::string>& metadata,
                          std::vector<SafetensorsEntry> entries);

}  // namespace calotype
