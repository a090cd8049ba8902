// What a file is, told by its first bytes.
#pragma once

#include <cstddef>
#include <span>

namespace calotype {

// The first three are read; the others are known by name, so that an error can say what was given.
enum class FileKind {
  kPng,
  kJpeg,
  kWebp,
  kGif,
  kBmp,
  kTiff,
  kAvif,
  kIsoMedia,
  kPdf,
  kJpegXl,
  kPhotoshop,
  kUnknown,
};

FileKind kind_of(std::span<const std::byte> first);
const char* kind_name(FileKind kind);  // "a PNG picture"; of kUnknown: "unknown"

}  // namespace calotype
