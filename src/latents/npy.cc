#include "latents/npy.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>

#include "core/cat.h"

namespace calotype {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kMaximumHeader = size_t{1} << 20;  // NumPy itself stops at 10,000
constexpr size_t kMaximumRank = 32;                 // as NumPy

struct Descr {
  std::string_view text;  // without the byte order
  DType dtype;
};
constexpr std::array<Descr, 12> kDescrs = {{{"f8", DType::kF64},
                                            {"f4", DType::kF32},
                                            {"f2", DType::kF16},
                                            {"i8", DType::kI64},
                                            {"i4", DType::kI32},
                                            {"i2", DType::kI16},
                                            {"i1", DType::kI8},
                                            {"u8", DType::kU64},
                                            {"u4", DType::kU32},
                                            {"u2", DType::kU16},
                                            {"u1", DType::kU8},
                                            {"b1", DType::kBool}}};

// The header is a Python literal: {'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  std::string descr;
  bool fortran_order = false;
  Shape shape;

  void parse() {
    bool seen_descr = false, seen_order = false, seen_shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string key = string();
      expect(':');
      if (key == "descr") {
        once(seen_descr, key);
        if (peek() == '[') {
          fail(ErrorCode::kUnsupported, file_, ": is a structured array; an array of ",
               "float32, float16 or float64 is expected");
        }
        descr = string();
      } else if (key == "fortran_order") {
        once(seen_order, key);
        fortran_order = boolean();
      } else if (key == "shape") {
        once(seen_shape, key);
        shape = tuple();
      } else {
        malformed(cat("the key '", key, "' is none of descr, fortran_order and shape"));
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    if (!seen_descr || !seen_order || !seen_shape) {
      malformed("one of the keys descr, fortran_order and shape is missing");
    }
    skip_space();
    if (at_ != text_.size()) malformed("something follows the closing brace");
  }

 private:
  [[noreturn]] void malformed(const std::string& why) const {
    fail(ErrorCode::kInvalidData, file_, ": has a header that is none of an npy file: ", why);
  }
  void once(bool& seen, const std::string& key) const {
    if (seen) malformed(cat("the key '", key, "' stands twice"));
    seen = true;
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) at_++;
  }
  char peek() {
    skip_space();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool accept(char c) {
    if (peek() != c) return false;
    at_++;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) malformed(cat("'", c, "' is expected at character ", at_));
  }
  std::string string() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') malformed(cat("a string is expected at character ", at_));
    const size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) malformed("a string does not end");
    std::string value(text_.substr(at_ + 1, end - at_ - 1));
    const auto plain = [](char c) { return c >= ' ' && c <= '~' && c != '\\'; };
    if (value.size() > 64 || !std::all_of(value.begin(), value.end(), plain)) {
      malformed("a string has more than 64 characters, or some that are not plain ASCII");
    }
    at_ = end + 1;
    return value;
  }
  bool boolean() {
    skip_space();
    for (const std::string_view word : {"True", "False"}) {
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return word == "True";
      }
    }
    malformed("fortran_order is neither True nor False");
  }
  Shape tuple() {
    Shape dims;
    bool comma = true;
    expect('(');
    while (!accept(')')) {
      if (!comma) malformed("the dimensions of shape are not separated by commas");
      skip_space();
      int64_t value = 0;
      const char* first = text_.data() + at_;
      const auto [end, error] = std::from_chars(first, text_.data() + text_.size(), value);
      if (error != std::errc() || value < 0) {
        malformed("shape is no tuple of non-negative 64-bit numbers");
      }
      at_ += static_cast<size_t>(end - first);
      if (dims.size() == kMaximumRank) malformed(cat("shape has more than 32 dimensions"));
      dims.push_back(value);
      comma = accept(',');
    }
    if (dims.size() == 1 && !comma) malformed("shape is a number in parentheses, no tuple");
    return dims;
  }

  std::string_view text_;
  const std::string& file_;
  size_t at_ = 0;
};

DType dtype_of(const std::string& descr, const std::string& file) {
  const std::string_view text = descr;
  if (text.size() > 1 && text[0] == '>') {
    fail(ErrorCode::kUnsupported, file, ": is big-endian (dtype ", descr,
         "); save it again with astype('<", text.substr(1), "')");
  }
  if (!text.empty() && (text[0] == '<' || text[0] == '|')) {
    for (const Descr& known : kDescrs) {
      if (text.substr(1) == known.text) return known.dtype;
    }
  }
  fail(ErrorCode::kUnsupported, file, ": has the dtype '", descr,
       "'; '<f4', '<f2' and '<f8' are read: save it again with astype('<f4')");
}

std::string_view descr_of(DType dtype) {
  for (const Descr& known : kDescrs) {
    if (known.dtype == dtype && is_weight_dtype(dtype)) return known.text;
  }
  fail(ErrorCode::kInvalidArgument, "an npy file cannot hold ", dtype_name(dtype),
       "; write F32 or F16, or a .safetensors file");
}

// The elements in C order: the last dimension fastest, which Fortran has the first.
std::vector<std::byte> in_c_order(const std::byte* data, const Shape& shape, DType dtype) {
  std::vector<std::byte> out(static_cast<size_t>(byte_count(dtype, shape)));
  const auto width = static_cast<size_t>(byte_count(dtype, {1}));
  Shape strides;  // of the source, in elements
  int64_t stride = 1;
  for (const int64_t dim : shape) {
    strides.push_back(stride);
    stride *= dim;
  }
  Shape index(shape.size());
  int64_t from = 0;
  for (size_t to = 0; to < out.size(); to += width) {
    std::memcpy(out.data() + to, data + static_cast<size_t>(from) * width, width);
    for (size_t axis = shape.size(); axis-- > 0;) {
      from += strides[axis];
      if (++index[axis] < shape[axis]) break;
      from -= shape[axis] * strides[axis];
      index[axis] = 0;
    }
  }
  return out;
}

uint32_t little_endian(std::span<const std::byte> bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < bytes.size(); i++) value |= std::to_integer<uint32_t>(bytes[i]) << (8 * i);
  return value;
}

}  // namespace

bool looks_like_npy(std::span<const std::byte> bytes) {
  return bytes.size() >= kMagic.size() &&
         std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
}

NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& file) {
  if (!looks_like_npy(bytes)) {
    fail(ErrorCode::kInvalidData, file, ": does not begin as an npy file does");
  }
  const auto truncated = [&] {
    fail(ErrorCode::kInvalidData, file, ": is truncated: its ", bytes.size(),
         " bytes end within the header");
  };
  if (bytes.size() < 10) truncated();
  const int major = std::to_integer<int>(bytes[6]), minor = std::to_integer<int>(bytes[7]);
  if (major < 1 || major > 3 || minor != 0) {
    fail(ErrorCode::kUnsupported, file, ": is of npy version ", major, ".", minor,
         "; versions 1.0, 2.0 and 3.0 are read");
  }
  const size_t length_bytes = major == 1 ? 2 : 4;
  const size_t start = 8 + length_bytes;
  if (bytes.size() < start) truncated();
  const size_t length = little_endian(bytes.subspan(8, length_bytes));
  if (length > kMaximumHeader) {
    fail(ErrorCode::kInvalidData, file, ": claims a header of ", length, " bytes; at most ",
         kMaximumHeader, " are read");
  }
  if (length > bytes.size() - start) truncated();

  HeaderParser header({reinterpret_cast<const char*>(bytes.data()) + start, length}, file);
  header.parse();
  const DType dtype = dtype_of(header.descr, file);
  int64_t expected = 0;
  try {
    expected = byte_count(dtype, header.shape);
  } catch (const Error& error) {
    fail(error.code(), file, ": claims the shape ", shape_string(header.shape), ": ", error.what());
  }
  const int64_t found = static_cast<int64_t>(bytes.size() - start - length);
  if (found < expected) {
    fail(ErrorCode::kInvalidData, file, ": is truncated: shape ", shape_string(header.shape),
         " of ", dtype_name(dtype), " takes ", expected, " bytes and ", found, " are there");
  }
  if (found > expected) {
    fail(ErrorCode::kInvalidData, file, ": has ", found - expected,
         " bytes after the array; one array a file is expected");
  }
  const std::byte* data = bytes.data() + start + length;
  if (!header.fortran_order) return {{dtype, header.shape, data}, nullptr};
  auto storage =
      std::make_shared<const std::vector<std::byte>>(in_c_order(data, header.shape, dtype));
  return {{dtype, header.shape, storage->data()}, storage};
}

std::vector<std::byte> npy_bytes(std::span<const float> values, const Shape& shape, DType dtype) {
  std::string dims;
  for (size_t i = 0; i < shape.size(); i++) {
    dims += cat(i == 0 ? "" : " ", shape[i], i + 1 < shape.size() || i == 0 ? "," : "");
  }
  std::string header =
      cat("{'descr': '<", descr_of(dtype), "', 'fortran_order': False, 'shape': (", dims, "), }");
  // Magic, version, length, header and a line's end make a multiple of 64.
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';

  const size_t start = 10 + header.size();
  std::vector<std::byte> bytes(start + static_cast<size_t>(byte_count(dtype, shape)));
  const std::string prefix = cat(kMagic, '\x01', '\0', static_cast<char>(header.size() & 0xff),
                                 static_cast<char>(header.size() >> 8), header);
  std::memcpy(bytes.data(), prefix.data(), prefix.size());
  convert_elements(values, dtype, bytes.data() + start);
  return bytes;
}

}  // namespace calotype
