#include "fuzz_bytes.h"
#include "image/codecs.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return calotype::fuzz_bytes(data, size, [](std::span<const std::byte> bytes) {
    calotype::bitmap_to_tensor(calotype::decode_jpeg(bytes, "fuzz"), "fuzz", {});
  });
}
