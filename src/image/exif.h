// The one EXIF field that pixels depend on, by libexif.
#pragma once

#include <cstddef>
#include <span>

namespace calotype {

// Orientation, 1 to 8, of an EXIF block with or without the leading "Exif\0\0"; 1 where there is
// none or it makes no sense, as every viewer takes it.
int exif_orientation(std::span<const std::byte> exif);

}  // namespace calotype
