#include "weights/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "core/cat.h"
#include "core/file.h"
#include "weights/json.h"

namespace calotype {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // as the safetensors package limits it
constexpr size_t kMaxRank = 16;
constexpr int kHeaderDepth = 4;  // {"name": {"shape": [ … ]}}

// Dtypes of safetensors that have no DType here.
constexpr std::array<std::string_view, 7> kOtherDTypes = {
    "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F6_E2M3", "F6_E3M2", "F4", "C64"};

struct Extent {
  uint64_t begin, end;
  const std::string* name;
};

uint64_t read_u64(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < kLengthBytes; i++) value |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  return value;
}

std::string_view header_text(std::span<const std::byte> bytes, const std::string& file) {
  if (bytes.size() < kLengthBytes) {
    fail(ErrorCode::kInvalidData, file, ": is not a safetensors file: it has ", bytes.size(),
         " bytes, fewer than the 8 of the header's length");
  }
  const uint64_t length = read_u64(bytes);
  if (length > kMaxHeader) {
    fail(ErrorCode::kInvalidData, file, ": is not a safetensors file: its header would have ",
         length, " bytes, more than the ", kMaxHeader, " that are allowed");
  }
  if (length > bytes.size() - kLengthBytes) {
    fail(ErrorCode::kInvalidData, file, ": is truncated or not a safetensors file: its header has ",
         length, " bytes, but only ", bytes.size() - kLengthBytes, " follow");
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data() + kLengthBytes),
                              static_cast<size_t>(length));
  if (!text.starts_with('{')) {
    fail(ErrorCode::kInvalidData, file,
         ": is not a safetensors file: its header does not begin with \"{\"");
  }
  return text;
}

const Json& member(const Json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end()) fail(ErrorCode::kInvalidData, where, " has no \"", key, "\"");
  return *found;
}

Shape read_shape(const Json& json, const std::string& where) {
  if (!json.is_array()) {
    fail(ErrorCode::kInvalidData, where, "'s shape should be an array, not ", json_kind(json));
  }
  if (json.size() > kMaxRank) {
    fail(ErrorCode::kInvalidData, where, " has ", json.size(), " dimensions, more than the ",
         kMaxRank, " that are read");
  }
  Shape shape;
  for (const Json& dim : json) {
    shape.push_back(json_integer(dim, cat(where, "'s shape: a dimension")));
    if (shape.back() < 0) {
      fail(ErrorCode::kInvalidData, where, " has the negative dimension ", shape.back());
    }
  }
  return shape;
}

Extent read_offsets(const Json& json, const std::string& where, uint64_t available) {
  if (!json.is_array() || json.size() != 2 || !json[0].is_number_unsigned() ||
      !json[1].is_number_unsigned()) {
    fail(ErrorCode::kInvalidData, where, "'s data_offsets should be two whole numbers, not ",
         json_kind(json));
  }
  const uint64_t begin = json[0].get<uint64_t>(), end = json[1].get<uint64_t>();
  if (begin > end) {
    fail(ErrorCode::kInvalidData, where, "'s data_offsets are reversed: ", begin, ", ", end);
  }
  if (end > available) {
    fail(ErrorCode::kInvalidData, where, " ends at byte ", end, " of the data, which has only ",
         available, ": the file is truncated");
  }
  return {begin, end, nullptr};
}

// Reads one entry into `file`; gives the bytes it lies in.
Extent read_entry(const std::string& name, const Json& json, std::span<const std::byte> data,
                  const std::string& path, SafetensorsFile& file) {
  const std::string where = cat(path, ": the tensor \"", name, "\"");
  if (!json.is_object()) {
    fail(ErrorCode::kInvalidData, where, " should be described by an object, not ",
         json_kind(json));
  }
  const std::string& spelled = json_string(member(json, "dtype", where), where + "'s dtype");
  const Shape shape = read_shape(member(json, "shape", where), where);
  Extent extent = read_offsets(member(json, "data_offsets", where), where, data.size());
  const std::optional<DType> dtype = dtype_named(spelled);
  if (!dtype || *dtype == DType::kQ8_0) {  // Q8_0 is GGUF's alone
    if (std::ranges::find(kOtherDTypes, spelled) == kOtherDTypes.end()) {
      fail(ErrorCode::kInvalidData, where, " has the dtype ", json_kind(Json(spelled)),
           ", which safetensors does not have");
    }
    extent.name = &file.unreadable.emplace(name, spelled).first->first;
    return extent;
  }
  int64_t expected = 0;
  try {
    expected = byte_count(*dtype, shape);
  } catch (const Error& error) {
    fail(ErrorCode::kInvalidData, where, " cannot be: ", error.what());
  }
  if (static_cast<uint64_t>(expected) != extent.end - extent.begin) {
    fail(ErrorCode::kInvalidData, where, " of dtype ", spelled, " and shape ", shape_string(shape),
         " takes ", expected, " bytes, but its data_offsets hold ", extent.end - extent.begin);
  }
  const TensorView view{*dtype, shape, data.data() + extent.begin};
  extent.name = &file.tensors.emplace(name, view).first->first;
  return extent;
}

void read_metadata(const Json& json, const std::string& path, SafetensorsFile& file) {
  if (!json.is_object()) {
    fail(ErrorCode::kInvalidData, path, ": its __metadata__ should be an object, not ",
         json_kind(json));
  }
  for (const auto& [key, value] : json.items()) {
    file.metadata[key] = json_string(value, cat(path, ": the metadata \"", key, "\""));
  }
}

// The data must be covered without overlap, hole or rest: bytes that no tensor explains could be
// anything.
void check_cover(std::vector<Extent>& extents, uint64_t size, const std::string& path) {
  std::ranges::sort(extents, [](const Extent& a, const Extent& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  uint64_t covered = 0;
  const std::string* last = nullptr;
  for (const Extent& extent : extents) {
    if (extent.begin < covered) {
      fail(ErrorCode::kInvalidData, path, ": the tensors \"", *last, "\" and \"", *extent.name,
           "\" overlap");
    }
    if (extent.begin > covered) {
      fail(ErrorCode::kInvalidData, path, ": before the tensor \"", *extent.name,
           "\" is a hole of ", extent.begin - covered, " bytes that belong to no tensor");
    }
    covered = extent.end;
    last = extent.name;
  }
  if (covered != size) {
    fail(ErrorCode::kInvalidData, path, ": after the last tensor are ", size - covered,
         " bytes that belong to no tensor");
  }
}

int64_t alignment_of(DType dtype) { return byte_count(dtype, {1}); }

// The header's bytes, its length before them, padded with spaces to a multiple of 8. Sorts
// `entries` into the order of their bytes.
std::string make_header(const std::map<std::string, std::string>& metadata,
                        std::vector<SafetensorsEntry>& entries) {
  std::ranges::sort(entries, [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    const int64_t x = alignment_of(a.dtype), y = alignment_of(b.dtype);
    return x != y ? x > y : a.name < b.name;
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const SafetensorsEntry& entry : entries) {
    const int64_t end = offset + byte_count(entry.dtype, entry.shape);
    header[entry.name] = {{"dtype", dtype_name(entry.dtype)},
                          {"shape", entry.shape},
                          {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string length(kLengthBytes, '\0');
  for (size_t i = 0; i < kLengthBytes; i++) {
    length[i] = static_cast<char>((text.size() >> (8 * i)) & 0xFF);
  }
  return length + text;
}

}  // namespace

SafetensorsFile parse_safetensors(std::span<const std::byte> bytes, const std::string& path) {
  const std::string_view text = header_text(bytes, path);
  const auto data = bytes.subspan(kLengthBytes + text.size());
  const Json header = parse_json(text, path, kHeaderDepth);
  SafetensorsFile file;
  std::vector<Extent> extents;
  for (const auto& [name, json] : header.items()) {
    if (name == "__metadata__") {
      read_metadata(json, path, file);
    } else {
      extents.push_back(read_entry(name, json, data, path, file));
    }
  }
  check_cover(extents, data.size(), path);
  return file;
}

bool looks_like_safetensors(std::span<const std::byte> bytes) {
  return bytes.size() > kLengthBytes && read_u64(bytes) <= kMaxHeader &&
         bytes[kLengthBytes] == std::byte{'{'};
}

std::optional<DType> dtype_named(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); i++) {
    const auto dtype = static_cast<DType>(i);
    if (dtype_name(dtype) == name) return dtype;
  }
  return std::nullopt;
}

SafetensorsEntry SafetensorsEntry::of(std::string name, const TensorView& view) {
  return {std::move(name), view.dtype, view.shape, [view](const ByteSink& sink) {
            sink({view.data, static_cast<size_t>(byte_count(view.dtype, view.shape))});
          }};
}

void write_safetensors_to(const ByteSink& sink, const std::map<std::string, std::string>& metadata,
                          std::vector<SafetensorsEntry> entries) {
  const std::string header = make_header(metadata, entries);
  sink(std::as_bytes(std::span(header)));
  for (const SafetensorsEntry& entry : entries) {
    int64_t wrote = 0;
    entry.write([&](std::span<const std::byte> piece) {
      wrote += static_cast<int64_t>(piece.size());
      sink(piece);
    });
    if (wrote != byte_count(entry.dtype, entry.shape)) {
      fail(ErrorCode::kInternal, "the tensor \"", entry.name, "\" was written as ", wrote,
           " bytes, not as the ", byte_count(entry.dtype, entry.shape), " of its shape");
    }
  }
}

void write_safetensors(const std::string& path, const std::map<std::string, std::string>& metadata,
                       std::vector<SafetensorsEntry> entries,
                       const std::function<void(int64_t done, int64_t total)>& progress) {
  int64_t total = 0, done = 0;
  for (const SafetensorsEntry& entry : entries) total += byte_count(entry.dtype, entry.shape);
  const int64_t header = static_cast<int64_t>(make_header(metadata, entries).size());
  AtomicFile file(path);
  write_safetensors_to(
      [&](std::span<const std::byte> bytes) {
        file.write(bytes);
        done += static_cast<int64_t>(bytes.size());
        if (progress) progress(std::max<int64_t>(done - header, 0), total);
      },
      metadata, entries);
  file.commit();
}

std::vector<std::byte> safetensors_bytes(const std::map<std::string, std::string>& metadata,
                                         std::vector<SafetensorsEntry> entries) {
  std::vector<std::byte> bytes;
  write_safetensors_to(
      [&](std::span<const std::byte> piece) {
        bytes.insert(bytes.end(), piece.begin(), piece.end());
      },
      metadata, std::move(entries));
  return bytes;
}

}  // namespace calotype
