#include "image/exif.h"

#include <libexif/exif-data.h>

#include <cstring>
#include <memory>
#include <vector>

namespace calotype {
namespace {

constexpr unsigned char kPrefix[] = {'E', 'x', 'i', 'f', 0, 0};

struct UnrefData {
  void operator()(ExifData* data) const noexcept { exif_data_unref(data); }
};

}  // namespace

int exif_orientation(std::span<const std::byte> exif) {
  // libexif wants the prefix that JPEG has and PNG has not, and sizes that fit a JPEG marker's use.
  std::vector<unsigned char> block(std::begin(kPrefix), std::end(kPrefix));
  if (exif.size() >= sizeof kPrefix && std::memcmp(exif.data(), kPrefix, sizeof kPrefix) == 0) {
    exif = exif.subspan(sizeof kPrefix);
  }
  if (exif.empty() || exif.size() > (size_t{1} << 26)) return 1;
  const auto* first = reinterpret_cast<const unsigned char*>(exif.data());
  block.insert(block.end(), first, first + exif.size());

  const std::unique_ptr<ExifData, UnrefData> data(
      exif_data_new_from_data(block.data(), static_cast<unsigned int>(block.size())));
  if (data == nullptr) return 1;
  const ExifEntry* entry = exif_content_get_entry(data->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION);
  if (entry == nullptr || entry->format != EXIF_FORMAT_SHORT || entry->components < 1 ||
      entry->size < 2) {
    return 1;
  }
  const int value = exif_get_short(entry->data, exif_data_get_byte_order(data.get()));
  return value >= 1 && value <= 8 ? value : 1;
}

}  // namespace calotype
