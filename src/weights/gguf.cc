#include "weights/gguf.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>

#include "core/cat.h"

namespace calotype {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint32_t kMaxDims = 8;
constexpr int kMaxArrayDepth = 8;
constexpr uint64_t kDefaultAlignment = 32, kMaxAlignment = uint64_t{1} << 20;
constexpr std::string_view kOriginalShape = "comfy.gguf.orig_shape.";

enum ValueType : uint32_t { kInt32 = 5, kUint32 = 4, kString = 8, kArray = 9 };

// Bytes of a value of each type; 0 for strings and arrays.
constexpr std::array<uint64_t, 13> kValueBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

// A GGML type: `block` values take `bytes`. Those with a dtype can be read here.
struct GgmlType {
  uint32_t id;
  const char* name;
  int64_t block, bytes;
  std::optional<DType> dtype = std::nullopt;
};
const std::array kTypes = {
    GgmlType{0, "F32", 1, 4, DType::kF32},
    GgmlType{1, "F16", 1, 2, DType::kF16},
    GgmlType{2, "Q4_0", 32, 18},
    GgmlType{3, "Q4_1", 32, 20},
    GgmlType{6, "Q5_0", 32, 22},
    GgmlType{7, "Q5_1", 32, 24},
    GgmlType{8, "Q8_0", 32, 34, DType::kQ8_0},
    GgmlType{10, "Q2_K", 256, 84},
    GgmlType{11, "Q3_K", 256, 110},
    GgmlType{12, "Q4_K", 256, 144},
    GgmlType{13, "Q5_K", 256, 176},
    GgmlType{14, "Q6_K", 256, 210},
    GgmlType{24, "I8", 1, 1, DType::kI8},
    GgmlType{25, "I16", 1, 2, DType::kI16},
    GgmlType{26, "I32", 1, 4, DType::kI32},
    GgmlType{27, "I64", 1, 8, DType::kI64},
    GgmlType{28, "F64", 1, 8, DType::kF64},
    GgmlType{30, "BF16", 1, 2, DType::kBF16},
};

uint64_t round_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// Walks the header; every step is checked against the end of the file.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  template <class T>
  T number(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    return value;
  }
  std::string_view text(const char* what) {
    const auto piece = take(number<uint64_t>(what), what);
    return {reinterpret_cast<const char*>(piece.data()), piece.size()};
  }
  std::span<const std::byte> take(uint64_t count, const char* what) {
    if (count > bytes_.size() - at_) {
      fail(ErrorCode::kInvalidData, file_, ": is truncated: ", what, " at byte ", at_, " takes ",
           count, " bytes, but ", bytes_.size() - at_, " follow");
    }
    const auto piece = bytes_.subspan(at_, static_cast<size_t>(count));
    at_ += static_cast<size_t>(count);
    return piece;
  }
  uint64_t position() const { return at_; }

 private:
  std::span<const std::byte> bytes_;
  const std::string& file_;
  size_t at_ = 0;
};

struct Description {
  std::string name;
  Shape shape;  // in PyTorch's order
  uint32_t type = 0;
  uint64_t offset = 0;
};

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& file)
      : bytes_(bytes), file_(file), cursor_(bytes, file) {}

  GgufFile parse() {
    read_version();
    const auto tensors = cursor_.number<uint64_t>("the number of tensors");
    const auto pairs = cursor_.number<uint64_t>("the number of key-value pairs");
    for (uint64_t i = 0; i < pairs; i++) read_pair();
    std::vector<Description> descriptions;
    for (uint64_t i = 0; i < tensors; i++) descriptions.push_back(read_description());
    place(descriptions);
    return std::move(result_);
  }

 private:
  void read_version() {
    if (!looks_like_gguf(bytes_)) {
      fail(ErrorCode::kInvalidData, file_, ": is not a GGUF file: it does not begin with \"GGUF\"");
    }
    cursor_.take(kMagic.size(), "the magic number");
    const auto version = cursor_.number<uint32_t>("the version");
    if (version != 2 && version != 3) {
      const bool big_endian = version == 0x0200'0000 || version == 0x0300'0000;
      fail(ErrorCode::kUnsupported, file_, ": is a GGUF file ",
           big_endian ? "of big-endian numbers" : cat("of version ", version),
           "; versions 2 and 3, little-endian, are read");
    }
  }

  void read_pair() {
    const std::string key(cursor_.text("a key"));
    if (!keys_.insert(key).second) {
      fail(ErrorCode::kInvalidData, file_, ": has the key \"", key, "\" twice");
    }
    const auto type = cursor_.number<uint32_t>("the type of a value");
    if (type == kString) {
      result_.strings.emplace(key, cursor_.text("a string"));
    } else if (key == "general.alignment" && type == kUint32) {
      read_alignment();
    } else if (key.starts_with(kOriginalShape) && type == kArray) {
      read_original_shape(key.substr(kOriginalShape.size()));
    } else {
      skip_value(type, key, 0);
    }
  }

  void read_alignment() {
    alignment_ = cursor_.number<uint32_t>("general.alignment");
    if (alignment_ == 0 || alignment_ > kMaxAlignment || (alignment_ & (alignment_ - 1)) != 0) {
      fail(ErrorCode::kInvalidData, file_, ": general.alignment is ", alignment_,
           ", which is not a power of two from 1 to ", kMaxAlignment);
    }
  }

  void read_original_shape(const std::string& name) {
    const auto type = cursor_.number<uint32_t>("the type of an array");
    const auto count = cursor_.number<uint64_t>("the length of an array");
    if (type != kInt32 || count > kMaxDims) {
      fail(ErrorCode::kInvalidData, file_, ": ", kOriginalShape, name, " is not a list of at most ",
           kMaxDims, " 32-bit numbers");
    }
    Shape& shape = original_shapes_[name];
    for (uint64_t i = 0; i < count; i++) shape.push_back(cursor_.number<int32_t>("a dimension"));
  }

  void skip_value(uint32_t type, const std::string& key, int depth) {
    if (type >= kValueBytes.size()) {
      fail(ErrorCode::kInvalidData, file_, ": the value of \"", key, "\" has the type ", type,
           ", which GGUF does not have");
    }
    if (type == kString) {
      cursor_.text("a string");
    } else if (type == kArray) {
      skip_array(key, depth);
    } else {
      cursor_.take(kValueBytes[type], "a value");
    }
  }

  void skip_array(const std::string& key, int depth) {
    if (depth == kMaxArrayDepth) {
      fail(ErrorCode::kInvalidData, file_, ": the arrays of \"", key, "\" are nested deeper than ",
           kMaxArrayDepth);
    }
    const auto type = cursor_.number<uint32_t>("the type of an array");
    const auto count = cursor_.number<uint64_t>("the length of an array");
    if (type < kValueBytes.size() && kValueBytes[type] > 0) {
      if (count > bytes_.size()) {  // and their product cannot overflow
        fail(ErrorCode::kInvalidData, file_, ": is truncated: the array \"", key, "\" has ", count,
             " elements");
      }
      cursor_.take(count * kValueBytes[type], "an array");
      return;
    }
    for (uint64_t i = 0; i < count; i++) skip_value(type, key, depth + 1);
  }

  Description read_description() {
    Description description;
    description.name = std::string(cursor_.text("the name of a tensor"));
    const auto dims = cursor_.number<uint32_t>("the number of dimensions");
    if (dims > kMaxDims) {
      fail(ErrorCode::kInvalidData, where(description), " has ", dims,
           " dimensions, more than the ", kMaxDims, " that are read");
    }
    for (uint32_t i = 0; i < dims; i++) {
      const auto dim = cursor_.number<uint64_t>("a dimension");
      if (dim > uint64_t{INT64_MAX}) {
        fail(ErrorCode::kInvalidData, where(description), " has a dimension of ", dim);
      }
      description.shape.insert(description.shape.begin(), static_cast<int64_t>(dim));
    }
    description.type = cursor_.number<uint32_t>("the type of a tensor");
    description.offset = cursor_.number<uint64_t>("the offset of a tensor");
    return description;
  }

  // The tensors must follow each other, padded to the alignment.
  void place(std::vector<Description>& descriptions) {
    const uint64_t start = round_up(cursor_.position(), alignment_);
    const auto data = bytes_.subspan(std::min<size_t>(start, bytes_.size()));
    std::ranges::stable_sort(descriptions, {}, &Description::offset);
    uint64_t end = 0;
    bool known = true;  // whether the size of the last tensor is
    const Description* last = nullptr;
    for (const Description& each : descriptions) {
      if (each.offset % alignment_ != 0) {
        fail(ErrorCode::kInvalidData, where(each), " begins at byte ", each.offset,
             ", which is no multiple of the alignment ", alignment_);
      }
      if (each.offset < end) {
        fail(ErrorCode::kInvalidData, file_, ": the tensors \"", last->name, "\" and \"", each.name,
             "\" overlap");
      }
      if (known && each.offset > round_up(end, alignment_)) {
        fail(ErrorCode::kInvalidData, file_, ": before the tensor \"", each.name,
             "\" is a hole of ", each.offset - end, " bytes that belong to no tensor");
      }
      const std::optional<uint64_t> bytes = add(each, data);
      known = bytes.has_value();
      end = each.offset + bytes.value_or(0);
      last = &each;
    }
    if (known && data.size() > round_up(end, alignment_)) {
      fail(ErrorCode::kInvalidData, file_, ": after the last tensor are ", data.size() - end,
           " bytes that belong to no tensor");
    }
  }

  // The bytes it takes, where its type is known.
  std::optional<uint64_t> add(const Description& description, std::span<const std::byte> data) {
    if (result_.tensors.contains(description.name) ||
        result_.unreadable.contains(description.name)) {
      fail(ErrorCode::kInvalidData, file_, ": has the tensor \"", description.name, "\" twice");
    }
    const auto type = std::ranges::find(kTypes, description.type, &GgmlType::id);
    uint64_t bytes = 0;
    if (type != kTypes.end()) bytes = bytes_of(description, *type);
    if (description.offset > data.size() || bytes > data.size() - description.offset) {
      fail(ErrorCode::kInvalidData, where(description), " takes ", bytes, " bytes from byte ",
           description.offset, " of the data, which has only ", data.size(),
           ": the file is truncated");
    }
    if (type == kTypes.end() || !type->dtype) {
      result_.unreadable[description.name] =
          type == kTypes.end() ? cat("GGML type ", description.type) : type->name;
      if (type == kTypes.end()) return std::nullopt;
    } else {
      result_.tensors[description.name] = {*type->dtype, shape_of(description),
                                           data.data() + description.offset};
    }
    return bytes;
  }

  uint64_t bytes_of(const Description& description, const GgmlType& type) const {
    int64_t count = 0;
    try {
      count = element_count(description.shape);
    } catch (const Error& error) {
      fail(ErrorCode::kInvalidData, where(description), " cannot be: ", error.what());
    }
    const int64_t row = description.shape.empty() ? 1 : description.shape.back();
    if (row % type.block != 0) {
      fail(ErrorCode::kInvalidData, where(description), " of type ", type.name, " and shape ",
           shape_string(description.shape), " cannot be: its rows must be multiples of ",
           type.block);
    }
    if (count / type.block > INT64_MAX / type.bytes) {
      fail(ErrorCode::kInvalidData, where(description), " of shape ",
           shape_string(description.shape), " has more than 2^63 bytes");
    }
    return static_cast<uint64_t>(count / type.block * type.bytes);
  }

  Shape shape_of(const Description& description) const {
    const auto original = original_shapes_.find(description.name);
    if (original == original_shapes_.end()) return description.shape;
    int64_t count = -1;
    try {
      count = element_count(original->second);
    } catch (const Error&) {  // refused below, as a shape of another size is
    }
    if (count != element_count(description.shape)) {
      fail(ErrorCode::kInvalidData, where(description), " has the shape ",
           shape_string(description.shape), ", but its ", kOriginalShape, "… says ",
           shape_string(original->second));
    }
    return original->second;
  }

  std::string where(const Description& description) const {
    return cat(file_, ": the tensor \"", description.name, "\"");
  }

  std::span<const std::byte> bytes_;
  const std::string& file_;
  Cursor cursor_;
  uint64_t alignment_ = kDefaultAlignment;
  std::set<std::string> keys_;
  std::map<std::string, Shape> original_shapes_;
  GgufFile result_;
};

}  // namespace

bool looks_like_gguf(std::span<const std::byte> bytes) {
  return bytes.size() >= kMagic.size() &&
         std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
}

GgufFile parse_gguf(std::span<const std::byte> bytes, const std::string& file) {
  return Parser(bytes, file).parse();
}

}  // namespace calotype
