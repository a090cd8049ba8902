// Stands in for the codecs where the library is built with CALOTYPE_CODECS=OFF.
#include "core/cat.h"
#include "image/codecs.h"

namespace calotype {
namespace {

[[noreturn]] void refuse(const std::string& what, const char* format) {
  fail(ErrorCode::kUnsupported, what, ": this library was built without ", format,
       " (CALOTYPE_CODECS=OFF); .npy and .safetensors pictures work");
}

}  // namespace

bool image_codecs_built() { return false; }

Bitmap decode_png(std::span<const std::byte>, const std::string& file, int64_t) {
  refuse(file, "PNG");
}
Bitmap decode_jpeg(std::span<const std::byte>, const std::string& file, int64_t) {
  refuse(file, "JPEG");
}
Bitmap decode_webp(std::span<const std::byte>, const std::string& file, int64_t) {
  refuse(file, "WebP");
}
Tensor bitmap_to_tensor(const Bitmap&, const std::string& file, const ReadImageOptions&) {
  refuse(file, "PNG, JPEG and WebP");
}
std::vector<std::byte> encode_png(const Tensor&, int) { refuse("the picture", "PNG"); }
std::vector<std::byte> encode_jpeg(const Tensor&, int) { refuse("the picture", "JPEG"); }
std::vector<std::byte> encode_webp(const Tensor&, int) { refuse("the picture", "WebP"); }

}  // namespace calotype
