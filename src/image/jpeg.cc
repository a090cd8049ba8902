// JPEG by libjpeg-turbo. Its errors are made longjmps: the functions that call setjmp hold nothing
// with a destructor, and whatever must be freed belongs to their caller.
#include <cstddef>
#include <cstdio>
// jpeglib.h needs the two above.
#include <jerror.h>
#include <jpeglib.h>

#include <csetjmp>
#include <cstdlib>
#include <cstring>

#include "core/cat.h"
#include "image/codecs.h"
#include "image/colour.h"
#include "image/exif.h"

namespace calotype {
namespace {

constexpr int kExifMarker = JPEG_APP0 + 1;
constexpr int kIccMarker = JPEG_APP0 + 2;
// A progressive file needs about ten scans; one that repeats scans costs minutes for nothing.
constexpr int kMaximumScans = 200;

struct Errors {
  jpeg_error_mgr manager;  // first, so that cinfo->err points to this
  jmp_buf jump;
  char message[JMSG_LENGTH_MAX] = "";
};

[[noreturn]] void on_error(j_common_ptr cinfo) {
  auto* errors = reinterpret_cast<Errors*>(cinfo->err);
  cinfo->err->format_message(cinfo, errors->message);
  longjmp(errors->jump, 1);
}

// Where libjpeg would go on with grey in place of damaged data, this does not; what costs no pixel
// passes.
void on_message(j_common_ptr cinfo, int level) {
  if (level >= 0) return;  // a trace, no warning
  switch (cinfo->err->msg_code) {
    case JWRN_ADOBE_XFORM:
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_JFIF_MAJOR:
    case JWRN_NOT_SEQUENTIAL:
    case JWRN_TOO_MUCH_DATA:
      return;
    default:
      on_error(cinfo);
  }
}

void stop_at_scan_bombs(j_common_ptr cinfo) {
  if (reinterpret_cast<j_decompress_ptr>(cinfo)->input_scan_number > kMaximumScans) {
    auto* errors = reinterpret_cast<Errors*>(cinfo->err);
    std::snprintf(errors->message, sizeof errors->message, "it has more than %d scans",
                  kMaximumScans);
    longjmp(errors->jump, 1);
  }
}

struct JpegReader {
  JpegReader() {
    cinfo.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = on_error;
    errors.manager.emit_message = on_message;
    progress.progress_monitor = stop_at_scan_bombs;
  }
  ~JpegReader() {
    if (created) jpeg_destroy_decompress(&cinfo);
    std::free(icc);
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  jpeg_decompress_struct cinfo = {};
  Errors errors;
  jpeg_progress_mgr progress = {};
  bool created = false;
  JOCTET* icc = nullptr;
  unsigned int icc_size = 0;
};

bool read_header(JpegReader& r, std::span<const std::byte> bytes) {
  if (setjmp(r.errors.jump)) return false;
  jpeg_create_decompress(&r.cinfo);
  r.created = true;
  r.cinfo.progress = &r.progress;
  jpeg_mem_src(&r.cinfo, reinterpret_cast<const unsigned char*>(bytes.data()),
               static_cast<unsigned long>(bytes.size()));
  jpeg_save_markers(&r.cinfo, kExifMarker, 0xffff);
  jpeg_save_markers(&r.cinfo, kIccMarker, 0xffff);
  jpeg_read_header(&r.cinfo, TRUE);
  jpeg_read_icc_profile(&r.cinfo, &r.icc, &r.icc_size);
  return true;
}

bool start(JpegReader& r, J_COLOR_SPACE colour_space) {
  if (setjmp(r.errors.jump)) return false;
  r.cinfo.out_color_space = colour_space;
  r.cinfo.dct_method = JDCT_ISLOW;
  jpeg_start_decompress(&r.cinfo);
  return true;
}

bool read_rows(JpegReader& r, uint8_t* samples, int64_t row_bytes) {
  if (setjmp(r.errors.jump)) return false;
  while (r.cinfo.output_scanline < r.cinfo.output_height) {
    JSAMPROW row = samples + r.cinfo.output_scanline * row_bytes;
    jpeg_read_scanlines(&r.cinfo, &row, 1);
  }
  jpeg_finish_decompress(&r.cinfo);
  return true;
}

[[noreturn]] void refuse(const JpegReader& r, const std::string& file) {
  fail(ErrorCode::kInvalidData, file, ": is a damaged or truncated JPEG: ", r.errors.message);
}

ColourModel model_of(const JpegReader& r, const std::string& file) {
  switch (r.cinfo.jpeg_color_space) {
    case JCS_GRAYSCALE:
      return ColourModel::kGrey;
    case JCS_RGB:
    case JCS_YCbCr:
      return ColourModel::kRgb;
    case JCS_CMYK:
    case JCS_YCCK:
      return ColourModel::kCmyk;
    default:
      fail(ErrorCode::kUnsupported, file, ": is a JPEG of ", r.cinfo.num_components,
           " components in an unknown colour space; grey, RGB, YCbCr, CMYK and YCCK are read");
  }
}

int orientation_of(const JpegReader& r) {
  for (jpeg_saved_marker_ptr m = r.cinfo.marker_list; m != nullptr; m = m->next) {
    const std::span<const std::byte> data(reinterpret_cast<const std::byte*>(m->data),
                                          m->data_length);
    if (m->marker == kExifMarker && data.size() > 6 &&
        std::memcmp(data.data(), "Exif\0\0", 6) == 0) {
      return exif_orientation(data);
    }
  }
  return 1;
}

}  // namespace

Bitmap decode_jpeg(std::span<const std::byte> bytes, const std::string& file, int64_t memory) {
  JpegReader r;
  if (!read_header(r, bytes)) refuse(r, file);
  Bitmap bitmap;
  bitmap.width = r.cinfo.image_width;
  bitmap.height = r.cinfo.image_height;
  check_picture_size(file, bitmap.width, bitmap.height);
  if (r.cinfo.arith_code) {
    check_sparse_claim(file, bitmap.width, bitmap.height, bytes.size());
  } else {
    // A Huffman code has at least one bit, and each block of 8x8 pixels at least one code.
    check_claim(file, bitmap.width, bitmap.height, bitmap.width * bitmap.height, 512, bytes.size());
  }
  bitmap.model = model_of(r, file);
  bitmap.orientation = orientation_of(r);  // now: the markers are freed with the last row
  const J_COLOR_SPACE colour_space = bitmap.model == ColourModel::kGrey  ? JCS_GRAYSCALE
                                     : bitmap.model == ColourModel::kRgb ? JCS_RGB
                                                                         : JCS_CMYK;
  // A file of several scans has all its coefficients, of 16 bits, in memory.
  const int64_t coefficients = int64_t{2} * r.cinfo.num_components * bitmap.width * bitmap.height;
  check_memory(file, bitmap, jpeg_has_multiple_scans(&r.cinfo) ? coefficients : 0, memory);
  if (!start(r, colour_space)) refuse(r, file);
  bitmap.allocate();
  if (!read_rows(r, bitmap.samples.get(), bitmap.row_bytes())) refuse(r, file);
  const auto* icc = reinterpret_cast<const std::byte*>(r.icc);
  bitmap.icc.assign(icc, icc + r.icc_size);
  return bitmap;
}

namespace {

struct JpegWriter {
  JpegWriter() {
    cinfo.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = on_error;
  }
  ~JpegWriter() {
    if (created) jpeg_destroy_compress(&cinfo);
    std::free(out);
  }
  JpegWriter(const JpegWriter&) = delete;
  JpegWriter& operator=(const JpegWriter&) = delete;

  jpeg_compress_struct cinfo = {};
  Errors errors;
  bool created = false;
  unsigned char* out = nullptr;
  unsigned long out_size = 0;
};

bool begin(JpegWriter& w, JDIMENSION width, JDIMENSION height, int quality, const JOCTET* icc,
           unsigned int icc_size) {
  if (setjmp(w.errors.jump)) return false;
  jpeg_create_compress(&w.cinfo);
  w.created = true;
  jpeg_mem_dest(&w.cinfo, &w.out, &w.out_size);
  w.cinfo.image_width = width;
  w.cinfo.image_height = height;
  w.cinfo.input_components = 3;
  w.cinfo.in_color_space = JCS_RGB;
  jpeg_set_defaults(&w.cinfo);
  jpeg_set_quality(&w.cinfo, quality, TRUE);
  w.cinfo.optimize_coding = TRUE;
  // Whoever asks for 90 or more wants the colours too.
  if (quality >= 90) w.cinfo.comp_info[0].h_samp_factor = w.cinfo.comp_info[0].v_samp_factor = 1;
  jpeg_start_compress(&w.cinfo, TRUE);
  jpeg_write_icc_profile(&w.cinfo, icc, icc_size);
  return true;
}

bool write_row(JpegWriter& w, JSAMPROW row) {
  if (setjmp(w.errors.jump)) return false;
  jpeg_write_scanlines(&w.cinfo, &row, 1);
  return true;
}

bool finish(JpegWriter& w) {
  if (setjmp(w.errors.jump)) return false;
  jpeg_finish_compress(&w.cinfo);
  return true;
}

}  // namespace

static_assert(kLongestJpeg == JPEG_MAX_DIMENSION);

std::vector<std::byte> encode_jpeg(const Tensor& image, int quality) {
  const int64_t height = image.dim(1), width = image.dim(2);
  JpegWriter w;
  const auto refuse = [&] {
    fail(ErrorCode::kInvalidArgument, "libjpeg cannot write a picture of ", width, " x ", height,
         " pixels: ", w.errors.message);
  };
  const std::vector<std::byte> icc = srgb_profile();
  const size_t row_values = static_cast<size_t>(3 * width);
  std::vector<uint8_t> row(row_values);
  if (!begin(w, static_cast<JDIMENSION>(width), static_cast<JDIMENSION>(height), quality,
             reinterpret_cast<const JOCTET*>(icc.data()), static_cast<unsigned int>(icc.size()))) {
    refuse();
  }
  for (int64_t y = 0; y < height; y++) {
    to_uint8(image.values().subspan(static_cast<size_t>(y) * row_values, row_values), row);
    if (!write_row(w, row.data())) refuse();
  }
  if (!finish(w)) refuse();
  const auto* first = reinterpret_cast<const std::byte*>(w.out);
  return {first, first + w.out_size};
}

}  // namespace calotype
