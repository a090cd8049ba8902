// GGUF files, and what becomes of a checkpoint with such names and shapes.
#include "fuzz_bytes.h"
#include "fuzz_model.h"
#include "weights/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return calotype::fuzz_bytes(data, size, [](std::span<const std::byte> bytes) {
    calotype::GgufFile file = calotype::parse_gguf(bytes, "fuzz.gguf");
    calotype::touch(file.tensors);
    calotype::Source source;
    source.file = "fuzz.gguf";
    source.tensors = std::move(file.tensors);
    source.unreadable = std::move(file.unreadable);
    const auto config = file.strings.find(calotype::kConfigKey);
    if (config != file.strings.end()) source.config = config->second;
    calotype::touch(calotype::make_model(std::move(source), {}).tensors);
  });
}
