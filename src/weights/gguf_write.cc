#include <algorithm>
#include <array>

#include "core/cat.h"
#include "core/file.h"
#include "weights/gguf.h"

namespace calotype {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint64_t kAlignment = 32;
constexpr uint32_t kInt32 = 5, kString = 8, kArray = 9;  // types of values
constexpr int64_t kBlock = 32;                           // values of a Q8_0 block

template <class T>
void put(std::string& out, T value) {
  for (size_t i = 0; i < sizeof value; i++) {
    out += static_cast<char>((static_cast<uint64_t>(value) >> (8 * i)) & 0xFF);
  }
}

void put_string(std::string& out, std::string_view text) {
  put(out, uint64_t{text.size()});
  out += text;
}

void pad(std::string& out) { out.resize((out.size() + kAlignment - 1) / kAlignment * kAlignment); }

uint32_t type_id(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kQ8_0:
      return 8;
    case DType::kF64:
      return 28;
    case DType::kBF16:
      return 30;
    default:
      fail(ErrorCode::kUnsupported, "GGUF has no dtype ", dtype_name(dtype));
  }
}

// GGML's blocks lie along rows: a convolution [O, I, 3, 3] is stored as the matrix [O, I * 9].
bool is_flattened(const SafetensorsEntry& entry) {
  return entry.dtype == DType::kQ8_0 && entry.shape.size() > 2 && entry.shape.back() % kBlock != 0;
}

Shape stored_shape(const SafetensorsEntry& entry) {
  if (!is_flattened(entry)) return entry.shape;
  return {entry.shape[0], element_count(entry.shape) / std::max<int64_t>(entry.shape[0], 1)};
}

uint64_t stored_bytes(const SafetensorsEntry& entry) {
  return static_cast<uint64_t>(byte_count(entry.dtype, stored_shape(entry)));
}

std::string make_header(const std::map<std::string, std::string>& strings,
                        const std::vector<SafetensorsEntry>& entries) {
  const auto flattened = std::ranges::count_if(entries, is_flattened);
  std::string out = "GGUF";
  put(out, kVersion);
  put(out, uint64_t{entries.size()});
  put(out, uint64_t{strings.size() + static_cast<size_t>(flattened)});
  for (const auto& [key, value] : strings) {
    put_string(out, key);
    put(out, kString);
    put_string(out, value);
  }
  for (const SafetensorsEntry& entry : entries) {
    if (!is_flattened(entry)) continue;
    put_string(out, "comfy.gguf.orig_shape." + entry.name);
    put(out, kArray);
    put(out, kInt32);
    put(out, uint64_t{entry.shape.size()});
    for (const int64_t dim : entry.shape) put(out, static_cast<int32_t>(dim));
  }
  uint64_t offset = 0;
  for (const SafetensorsEntry& entry : entries) {
    const Shape shape = stored_shape(entry);
    put_string(out, entry.name);
    put(out, static_cast<uint32_t>(shape.size()));
    for (auto dim = shape.rbegin(); dim != shape.rend(); ++dim) put(out, *dim);
    put(out, type_id(entry.dtype));
    put(out, offset);
    offset += (stored_bytes(entry) + kAlignment - 1) / kAlignment * kAlignment;
  }
  pad(out);
  return out;
}

}  // namespace

bool is_gguf_dtype(DType dtype) {
  constexpr std::array kDTypes = {DType::kF64, DType::kF32, DType::kF16, DType::kBF16,
                                  DType::kQ8_0};
  return std::ranges::find(kDTypes, dtype) != kDTypes.end();
}

void write_gguf(const std::string& path, const std::map<std::string, std::string>& strings,
                std::vector<SafetensorsEntry> entries,
                const std::function<void(int64_t done, int64_t total)>& progress) {
  std::ranges::sort(entries, {}, &SafetensorsEntry::name);
  AtomicFile file(path);
  file.write(make_header(strings, entries));
  int64_t total = 0, done = 0;
  for (const SafetensorsEntry& entry : entries) total += static_cast<int64_t>(stored_bytes(entry));
  for (const SafetensorsEntry& entry : entries) {
    uint64_t wrote = 0;
    entry.write([&](std::span<const std::byte> bytes) {
      file.write(bytes);
      wrote += bytes.size();
      done += static_cast<int64_t>(bytes.size());
      if (progress) progress(done, total);
    });
    if (wrote != stored_bytes(entry)) {
      fail(ErrorCode::kInternal, "the tensor \"", entry.name, "\" was written as ", wrote,
           " bytes, not as the ", stored_bytes(entry), " of its shape");
    }
    file.write(std::string((kAlignment - wrote % kAlignment) % kAlignment, '\0'));
  }
  file.commit();
}

}  // namespace calotype
