#include "fuzz_bytes.h"
#include "image/arrays.h"
#include "latents/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return calotype::fuzz_bytes(data, size, [](std::span<const std::byte> bytes) {
    calotype::image_of_array(calotype::parse_npy(bytes, "fuzz").view, "fuzz");
  });
}
