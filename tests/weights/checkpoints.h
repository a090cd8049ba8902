// Checkpoints as the world has them, for tests: key lists of the original code, files whose tensors
// are holes, and what is refused.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "calotype/error.h"
#include "calotype/model_source.h"
#include "calotype/tensor.h"

namespace calotype::test {

struct Declared {
  std::string name;
  Shape shape;
  DType dtype = DType::kF32;
};

// The autoencoder of CompVis' latent diffusion (ldm/modules/diffusionmodules/model.py), written as
// that code builds it: Encoder, Decoder, then quant_conv and post_quant_conv.
struct LdmOptions {
  int64_t latent_channels = 4;
  bool quant_convs = true;
  bool flux2 = false;  // quant_conv inside the encoder, post_quant_conv inside the decoder, bn
  std::vector<int64_t> widths = {128, 256, 512, 512};
  std::vector<int64_t> decoder_widths = {};  // empty: widths
  std::string prefix = {};
  DType dtype = DType::kF32;
};
std::vector<Declared> ldm_tensors(const LdmOptions& options);

// The network's tensors under diffusers names, as of before 0.17 where `old_attention` is set.
std::vector<Declared> diffusers_tensors(const AutoencoderKLConfig& config,
                                        bool old_attention = false);

// A safetensors file whose tensors are a hole of the file system: full size, no disk.
void write_sparse(const std::string& path, const std::vector<Declared>& tensors,
                  const std::map<std::string, std::string>& metadata = {});

std::string read_all(const std::string& path);
std::vector<std::byte> bytes_of(std::string_view text);
std::string bytes_of(const TensorView& view);

// A safetensors file: the header's length, the header, `data` zeros.
std::vector<std::byte> safetensors_of(std::string_view header, size_t data);

// A small network that every container can hold: widths 32 and 64, attention, quant convs.
AutoencoderKLConfig small_config();

// An environment variable for the length of a test.
class Environment {
 public:
  Environment(std::string name, const std::string& value);
  ~Environment();
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  std::string name_;
  std::string before_;
  bool was_set_ = false;
};

// The sentence that `f` is refused with; fails the test where it is not refused, or with another
// code.
template <class F>
std::string refusal(ErrorCode code, F f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "was not refused";
  return "";
}

}  // namespace calotype::test
