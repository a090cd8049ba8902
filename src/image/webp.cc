// WebP by libwebp, libwebpdemux and libwebpmux.
#include <webp/decode.h>
#include <webp/demux.h>
#include <webp/encode.h>
#include <webp/mux.h>

#include <limits>
#include <memory>

#include "core/cat.h"
#include "image/codecs.h"
#include "image/colour.h"
#include "image/exif.h"

namespace calotype {
namespace {

struct DeleteDemuxer {
  void operator()(WebPDemuxer* demuxer) const noexcept { WebPDemuxDelete(demuxer); }
};

std::vector<std::byte> chunk(const WebPDemuxer* demuxer, const char* fourcc) {
  WebPChunkIterator iterator;
  std::vector<std::byte> bytes;
  if (WebPDemuxGetChunk(demuxer, fourcc, 1, &iterator) != 0) {
    const auto* first = reinterpret_cast<const std::byte*>(iterator.chunk.bytes);
    bytes.assign(first, first + iterator.chunk.size);
    WebPDemuxReleaseChunkIterator(&iterator);
  }
  return bytes;
}

const char* status_text(VP8StatusCode status) {
  switch (status) {
    case VP8_STATUS_NOT_ENOUGH_DATA:
    case VP8_STATUS_SUSPENDED:
      return "the file ends too early";
    case VP8_STATUS_OUT_OF_MEMORY:
      return "libwebp got no memory for it";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return "it uses a feature that libwebp does not know";
    default:
      return "its bit stream makes no sense";
  }
}

[[noreturn]] void refuse(const std::string& file, VP8StatusCode status) {
  fail(ErrorCode::kInvalidData, file, ": is a damaged or truncated WebP: ", status_text(status));
}

}  // namespace

Bitmap decode_webp(std::span<const std::byte> bytes, const std::string& file, int64_t memory) {
  const WebPData data = {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
  WebPBitstreamFeatures features;
  VP8StatusCode status = WebPGetFeatures(data.bytes, data.size, &features);
  if (status != VP8_STATUS_OK) refuse(file, status);
  if (features.has_animation) {
    fail(ErrorCode::kUnsupported, file,
         ": is an animated WebP; only still pictures are read: extract a frame of it first");
  }
  const std::unique_ptr<WebPDemuxer, DeleteDemuxer> demuxer(WebPDemux(&data));
  if (demuxer == nullptr) refuse(file, VP8_STATUS_NOT_ENOUGH_DATA);

  Bitmap bitmap;
  bitmap.width = features.width;
  bitmap.height = features.height;
  bitmap.alpha = features.has_alpha != 0;
  check_picture_size(file, bitmap.width, bitmap.height);
  check_sparse_claim(file, bitmap.width, bitmap.height, bytes.size());

  // libwebp holds a whole lossless picture once more, as ARGB.
  constexpr int kLossless = 2;
  const int64_t argb = features.format == kLossless ? 4 * bitmap.width * bitmap.height : 0;
  check_memory(file, bitmap, argb, memory);

  bitmap.allocate();
  WebPDecoderConfig config;
  if (!WebPInitDecoderConfig(&config)) {
    fail(ErrorCode::kInternal, "libwebp is of another version than its header");
  }
  config.output.colorspace = bitmap.alpha ? MODE_RGBA : MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = bitmap.samples.get();
  config.output.u.RGBA.stride = static_cast<int>(bitmap.row_bytes());
  config.output.u.RGBA.size = static_cast<size_t>(bitmap.row_bytes() * bitmap.height);
  status = WebPDecode(data.bytes, data.size, &config);
  WebPFreeDecBuffer(&config.output);
  if (status != VP8_STATUS_OK) refuse(file, status);

  bitmap.icc = chunk(demuxer.get(), "ICCP");
  bitmap.orientation = exif_orientation(chunk(demuxer.get(), "EXIF"));
  return bitmap;
}

namespace {

struct Picture {
  Picture() { WebPMemoryWriterInit(&writer); }
  ~Picture() {
    WebPPictureFree(&picture);
    WebPMemoryWriterClear(&writer);
  }
  Picture(const Picture&) = delete;
  Picture& operator=(const Picture&) = delete;

  WebPPicture picture;
  WebPMemoryWriter writer;
};

struct DeleteMux {
  void operator()(WebPMux* mux) const noexcept { WebPMuxDelete(mux); }
};

std::vector<std::byte> with_profile(const WebPData& webp, const std::vector<std::byte>& icc) {
  const std::unique_ptr<WebPMux, DeleteMux> mux(WebPMuxNew());
  const WebPData profile = {reinterpret_cast<const uint8_t*>(icc.data()), icc.size()};
  WebPData out;
  WebPDataInit(&out);
  if (mux == nullptr || WebPMuxSetImage(mux.get(), &webp, 0) != WEBP_MUX_OK ||
      WebPMuxSetChunk(mux.get(), "ICCP", &profile, 0) != WEBP_MUX_OK ||
      WebPMuxAssemble(mux.get(), &out) != WEBP_MUX_OK) {
    fail(ErrorCode::kInternal, "libwebpmux cannot add an sRGB profile to a WebP");
  }
  const auto* first = reinterpret_cast<const std::byte*>(out.bytes);
  std::vector<std::byte> bytes(first, first + out.size);
  WebPDataClear(&out);
  return bytes;
}

}  // namespace

static_assert(kLongestWebp == WEBP_MAX_DIMENSION);

std::vector<std::byte> encode_webp(const Tensor& image, int quality) {
  const int64_t height = image.dim(1), width = image.dim(2);
  std::vector<uint8_t> rgb(static_cast<size_t>(image.size()));
  to_uint8(image.values(), rgb);

  WebPConfig config;
  Picture p;
  if (!WebPConfigInit(&config) || !WebPPictureInit(&p.picture)) {
    fail(ErrorCode::kInternal, "libwebp is of another version than its header");
  }
  config.quality = static_cast<float>(quality);
  config.use_sharp_yuv = 1;
  if (quality == 100) {
    config.lossless = 1;
    config.quality = 75;  // effort, where lossless
  }
  p.picture.use_argb = 1;
  p.picture.width = static_cast<int>(width);
  p.picture.height = static_cast<int>(height);
  p.picture.writer = WebPMemoryWrite;
  p.picture.custom_ptr = &p.writer;
  if (!WebPPictureImportRGB(&p.picture, rgb.data(), static_cast<int>(3 * width)) ||
      !WebPEncode(&config, &p.picture)) {
    fail(ErrorCode::kInvalidArgument, "libwebp cannot write a picture of ", width, " x ", height,
         " pixels (its error ", static_cast<int>(p.picture.error_code), ")");
  }
  return with_profile({p.writer.mem, p.writer.size}, srgb_profile());
}

}  // namespace calotype
