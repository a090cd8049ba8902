#include "core/magic.h"

#include <cstring>
#include <string_view>

namespace calotype {
namespace {

using namespace std::string_view_literals;

struct Magic {
  std::string_view bytes;
  size_t offset;
  FileKind kind;
};

constexpr Magic kMagics[] = {
    {"\x89PNG\r\n\x1a\n"sv, 0, FileKind::kPng},
    {"\xff\xd8\xff"sv, 0, FileKind::kJpeg},
    {"WEBP"sv, 8, FileKind::kWebp},  // after RIFF and a length
    {"GIF8"sv, 0, FileKind::kGif},
    {"BM"sv, 0, FileKind::kBmp},
    {"II*\0"sv, 0, FileKind::kTiff},
    {"MM\0*"sv, 0, FileKind::kTiff},
    {"ftypavif"sv, 4, FileKind::kAvif},
    {"ftyp"sv, 4, FileKind::kIsoMedia},
    {"%PDF"sv, 0, FileKind::kPdf},
    {"\xff\x0a"sv, 0, FileKind::kJpegXl},
    {"JXL "sv, 4, FileKind::kJpegXl},
    {"8BPS"sv, 0, FileKind::kPhotoshop},
};

bool has(std::span<const std::byte> first, std::string_view magic, size_t offset) {
  return first.size() >= offset + magic.size() &&
         std::memcmp(first.data() + offset, magic.data(), magic.size()) == 0;
}

}  // namespace

FileKind kind_of(std::span<const std::byte> first) {
  for (const Magic& magic : kMagics) {
    if (magic.kind == FileKind::kWebp && !has(first, "RIFF", 0)) continue;
    if (has(first, magic.bytes, magic.offset)) return magic.kind;
  }
  return FileKind::kUnknown;
}

const char* kind_name(FileKind kind) {
  switch (kind) {
    case FileKind::kPng:
      return "a PNG picture";
    case FileKind::kJpeg:
      return "a JPEG picture";
    case FileKind::kWebp:
      return "a WebP picture";
    case FileKind::kGif:
      return "a GIF picture";
    case FileKind::kBmp:
      return "a BMP picture";
    case FileKind::kTiff:
      return "a TIFF picture";
    case FileKind::kAvif:
      return "an AVIF picture";
    case FileKind::kIsoMedia:
      return "a HEIC or another ISO media file";
    case FileKind::kPdf:
      return "a PDF";
    case FileKind::kJpegXl:
      return "a JPEG XL picture";
    case FileKind::kPhotoshop:
      return "a Photoshop file";
    case FileKind::kUnknown:
      break;
  }
  return "unknown";
}

}  // namespace calotype
