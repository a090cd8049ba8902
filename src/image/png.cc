// PNG by libpng. Its errors are longjmps: the functions that call setjmp hold nothing with a
// destructor, and whatever must be freed belongs to their caller.
#include <png.h>
#include <zlib.h>

#include <bit>
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "core/cat.h"
#include "image/codecs.h"
#include "image/exif.h"

namespace calotype {
namespace {

struct PngReader {
  PngReader() = default;
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  png_structp png = nullptr;
  png_infop info = nullptr;
  std::span<const std::byte> rest;
  char error[200] = "";
  char profile_warning[200] = "";
};

void on_read_error(png_structp png, png_const_charp message) {
  auto* reader = static_cast<PngReader*>(png_get_error_ptr(png));
  std::snprintf(reader->error, sizeof reader->error, "%s", message);
  png_longjmp(png, 1);
}

// libpng drops a profile that it does not accept, and says so in a warning.
void on_read_warning(png_structp png, png_const_charp message) {
  auto* reader = static_cast<PngReader*>(png_get_error_ptr(png));
  if (std::strncmp(message, "iCCP", 4) == 0) {
    std::snprintf(reader->profile_warning, sizeof reader->profile_warning, "%s", message);
  }
}

void read_bytes(png_structp png, png_bytep out, size_t n) {
  auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
  if (n > reader->rest.size()) png_error(png, "the file ends too early");
  std::memcpy(out, reader->rest.data(), n);
  reader->rest = reader->rest.subspan(n);
}

struct Header {
  png_uint_32 width = 0, height = 0;
  int bit_depth = 0, colour_type = 0;
  int64_t filtered_row_bytes = 0;  // of the file: what deflate has to give
};

// Chunks whose text or tables nobody asked for: not inflated, their checksums are checked all the
// same.
constexpr png_byte kSkipped[] = "tEXt\0zTXt\0iTXt\0sPLT\0hIST\0pCAL\0sCAL";

bool read_header(PngReader& r, Header& header) {
  if (setjmp(png_jmpbuf(r.png))) return false;
  png_set_read_fn(r.png, &r, read_bytes);
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  png_set_crc_action(r.png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
  png_set_option(r.png, PNG_IGNORE_ADLER32, PNG_OPTION_ON);
#else
  png_set_crc_action(r.png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
#endif
  png_set_user_limits(r.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // check_picture_size does it
  png_set_keep_unknown_chunks(r.png, PNG_HANDLE_CHUNK_NEVER, kSkipped, sizeof kSkipped / 5);
  png_read_info(r.png, r.info);
  png_get_IHDR(r.png, r.info, &header.width, &header.height, &header.bit_depth, &header.colour_type,
               nullptr, nullptr, nullptr);
  header.filtered_row_bytes = static_cast<int64_t>(png_get_rowbytes(r.png, r.info)) + 1;
  return true;
}

// Whatever the file has becomes grey or RGB, with or without alpha, of 8 or 16 bits.
bool set_transforms(PngReader& r, const Header& header) {
  if (setjmp(png_jmpbuf(r.png))) return false;
  if (header.colour_type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(r.png);
  if (header.colour_type == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(r.png);
  if (png_get_valid(r.png, r.info, PNG_INFO_tRNS)) png_set_tRNS_to_alpha(r.png);
  if (header.bit_depth == 16 && std::endian::native == std::endian::little) png_set_swap(r.png);
  png_set_interlace_handling(r.png);
  png_read_update_info(r.png, r.info);
  return true;
}

bool read_rows(PngReader& r, png_bytepp rows) {
  if (setjmp(png_jmpbuf(r.png))) return false;
  png_read_image(r.png, rows);
  png_read_end(r.png, r.info);
  return true;
}

std::vector<std::byte> embedded_profile(const PngReader& r, const std::string& file, bool grey) {
  if (png_get_valid(r.png, r.info, PNG_INFO_sRGB)) return {};
  png_charp name = nullptr;
  int compression = 0;
  png_bytep profile = nullptr;
  png_uint_32 size = 0;
  if (png_get_iCCP(r.png, r.info, &name, &compression, &profile, &size) != 0) {
    const auto* first = reinterpret_cast<const std::byte*>(profile);
    return {first, first + size};
  }
  // Grey files with an RGB profile are common and mean its grey axis, so nearly sRGB's.
  const bool other_model = std::strstr(r.profile_warning, "color space not permitted") != nullptr;
  if (r.profile_warning[0] != '\0' && !(grey && other_model)) {
    fail(ErrorCode::kInvalidData, file, ": has an embedded ICC profile that cannot be used (",
         r.profile_warning, "); convert the picture to sRGB, or remove the profile");
  }
  return {};
}

[[noreturn]] void refuse(const PngReader& r, const std::string& file) {
  fail(ErrorCode::kInvalidData, file, ": is a damaged or truncated PNG: ", r.error);
}

}  // namespace

Bitmap decode_png(std::span<const std::byte> bytes, const std::string& file, int64_t memory) {
  PngReader r;
  r.rest = bytes;
  r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &r, on_read_error, on_read_warning);
  r.info = r.png == nullptr ? nullptr : png_create_info_struct(r.png);
  if (r.info == nullptr) throw std::bad_alloc();

  Header header;
  if (!read_header(r, header)) refuse(r, file);
  check_picture_size(file, header.width, header.height);
  // Deflate gives at most 258 bytes for 2 bits: 1032 a byte.
  check_claim(file, header.width, header.height, header.filtered_row_bytes * header.height, 1032,
              bytes.size());
  if (!set_transforms(r, header)) refuse(r, file);

  Bitmap bitmap;
  bitmap.width = header.width;
  bitmap.height = header.height;
  bitmap.bits = header.bit_depth == 16 ? 16 : 8;
  const int channels = png_get_channels(r.png, r.info);
  bitmap.model = channels <= 2 ? ColourModel::kGrey : ColourModel::kRgb;
  bitmap.alpha = channels == 2 || channels == 4;
  if (static_cast<int64_t>(png_get_rowbytes(r.png, r.info)) != bitmap.row_bytes()) {
    fail(ErrorCode::kInternal, "libpng makes rows of another length than expected of ", file);
  }
  check_memory(file, bitmap, 0, memory);
  bitmap.allocate();
  std::vector<png_bytep> rows(header.height);
  for (size_t y = 0; y < rows.size(); y++) {
    rows[y] = bitmap.samples.get() + static_cast<int64_t>(y) * bitmap.row_bytes();
  }
  if (!read_rows(r, rows.data())) refuse(r, file);

  bitmap.icc = embedded_profile(r, file, bitmap.model == ColourModel::kGrey);
  png_bytep exif = nullptr;
  png_uint_32 exif_size = 0;
  if (png_get_eXIf_1(r.png, r.info, &exif_size, &exif) != 0) {
    bitmap.orientation = exif_orientation(std::as_bytes(std::span(exif, exif_size)));
  }
  return bitmap;
}

namespace {

struct PngWriter {
  PngWriter() = default;
  ~PngWriter() { png_destroy_write_struct(&png, &info); }
  PngWriter(const PngWriter&) = delete;
  PngWriter& operator=(const PngWriter&) = delete;

  png_structp png = nullptr;
  png_infop info = nullptr;
  std::vector<std::byte> bytes;
  char error[200] = "";
};

void on_write_error(png_structp png, png_const_charp message) {
  auto* writer = static_cast<PngWriter*>(png_get_error_ptr(png));
  std::snprintf(writer->error, sizeof writer->error, "%s", message);
  png_longjmp(png, 1);
}

void ignore_warning(png_structp, png_const_charp) {}

void write_bytes(png_structp png, png_bytep data, size_t n) {
  auto* writer = static_cast<PngWriter*>(png_get_io_ptr(png));
  bool kept = true;
  try {
    const auto* first = reinterpret_cast<const std::byte*>(data);
    writer->bytes.insert(writer->bytes.end(), first, first + n);
  } catch (...) {  // an exception must not pass through libpng
    kept = false;
  }
  if (!kept) png_error(png, "out of memory");
}

void flush_nothing(png_structp) {}

bool write_header(PngWriter& w, png_uint_32 width, png_uint_32 height, int bit_depth) {
  if (setjmp(png_jmpbuf(w.png))) return false;
  png_set_write_fn(w.png, &w, write_bytes, flush_nothing);
  png_set_user_limits(w.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
  png_set_IHDR(w.png, w.info, width, height, bit_depth, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  // Of filtered pictures little repeats but runs: in half of the time of zlib's level 4,
  // photographs come out as small, within 4 % of level 6.
  png_set_compression_strategy(w.png, Z_RLE);
  // To choose among all filters, row by row, takes a quarter longer for photographs as large.
  png_set_filter(w.png, PNG_FILTER_TYPE_BASE, PNG_FILTER_PAETH);
  png_set_sRGB_gAMA_and_cHRM(w.png, w.info, PNG_sRGB_INTENT_PERCEPTUAL);
  png_write_info(w.png, w.info);
  return true;
}

bool write_row(PngWriter& w, const uint8_t* row) {
  if (setjmp(png_jmpbuf(w.png))) return false;
  png_write_row(w.png, row);
  return true;
}

bool write_end(PngWriter& w) {
  if (setjmp(png_jmpbuf(w.png))) return false;
  png_write_end(w.png, w.info);
  return true;
}

// round(65535 * clamp(y / 2 + 0.5)), NaN to 0, most significant byte first.
void to_uint16_rows(std::span<const float> values, uint8_t* out) {
  for (const float y : values) {
    const double v = static_cast<double>(y) / 2 + 0.5;
    const int rounded = v > 0 ? static_cast<int>(65535 * std::min(v, 1.0) + 0.5) : 0;
    *out++ = static_cast<uint8_t>(rounded >> 8);
    *out++ = static_cast<uint8_t>(rounded & 0xff);
  }
}

}  // namespace

static_assert(kLongestPng == PNG_UINT_31_MAX);

std::vector<std::byte> encode_png(const Tensor& image, int bit_depth) {
  PngWriter w;
  w.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &w, on_write_error, ignore_warning);
  w.info = w.png == nullptr ? nullptr : png_create_info_struct(w.png);
  if (w.info == nullptr) throw std::bad_alloc();
  const auto refuse = [&] {
    fail(ErrorCode::kInvalidArgument, "libpng cannot write a picture of ", image.dim(2), " x ",
         image.dim(1), " pixels: ", w.error);
  };
  const size_t row_values = static_cast<size_t>(3 * image.dim(2));
  std::vector<uint8_t> row(row_values * (bit_depth == 16 ? 2 : 1));
  if (!write_header(w, static_cast<png_uint_32>(image.dim(2)),
                    static_cast<png_uint_32>(image.dim(1)), bit_depth)) {
    refuse();
  }
  for (int64_t y = 0; y < image.dim(1); y++) {
    const auto values = image.values().subspan(static_cast<size_t>(y) * row_values, row_values);
    if (bit_depth == 16) {
      to_uint16_rows(values, row.data());
    } else {
      to_uint8(values, row);
    }
    if (!write_row(w, row.data())) refuse();
  }
  if (!write_end(w)) refuse();
  return std::move(w.bytes);
}

}  // namespace calotype
