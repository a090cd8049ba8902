// The GGUF container of GGML (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): header,
// key-value pairs, tensor descriptions, then the tensors' bytes, aligned.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "calotype/tensor.h"
#include "weights/safetensors.h"

namespace calotype {

struct GgufFile {
  // Shapes as PyTorch has them: GGUF's dimensions in reverse order.
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> strings;     // the string values
  std::map<std::string, std::string> unreadable;  // tensors of other GGML types: name -> "Q4_K"
};

// Versions 2 and 3, little-endian. Checks everything before it returns; reads no tensor's data.
// Throws Error(kInvalidData, kUnsupported) naming `file` and the tensor. Valid as long as `bytes`
// are.
GgufFile parse_gguf(std::span<const std::byte> bytes, const std::string& file);

bool looks_like_gguf(std::span<const std::byte> bytes);

// The dtypes that write_gguf takes: F64, F32, F16, BF16, Q8_0 (blocks along the last dimension, or
// along all but the first, as ComfyUI-GGUF stores convolutions: then a key
// comfy.gguf.orig_shape.NAME says the shape).
bool is_gguf_dtype(DType dtype);

// Version 3. The file appears whole or not at all.
void write_gguf(const std::string& path, const std::map<std::string, std::string>& strings,
                std::vector<SafetensorsEntry> entries,
                const std::function<void(int64_t done, int64_t total)>& progress = {});

}  // namespace calotype
