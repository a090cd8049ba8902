// The KL autoencoder of latent diffusion models (Rombach et al. 2022, arXiv:2112.10752): pictures
// to latents and back.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "calotype/error.h"
#include "calotype/export.h"
#include "calotype/model_source.h"
#include "calotype/tensor.h"

namespace calotype {

enum class Backend {
  kAuto,       // an NVIDIA GPU where there is one that can be used, else the CPU
  kCpu,        // float32, SIMD, all cores
  kCuda,       // an NVIDIA GPU (sm_80 and later; fastest on sm_90)
  kReference,  // float64 in plain loops: slow, the judge of the others
};

enum class Precision {
  kAuto,  // kF32 on the CPU, kBF16 on a GPU
  kF32,   // float32 products and sums; CPU: Winograd F(4x4, 3x3)
  kFast,  // CPU only: float32, Winograd F(6x6, 3x3): four times the error
  kBF16,  // bf16 products, float32 sums, where the machine has them
  kF16,   // GPU only: f16 products, float32 sums; refused for models that force_upcast
  // GPU only, sm_90: e4m3 products, float32 sums, in the 3x3 convolutions after a norm; bf16 in the
  // rest. Ten times the error of bf16.
  kFP8,
};

struct Progress {
  double fraction = 0;     // of the job's arithmetic, 0 to 1, never falling
  std::string_view layer;  // "decoder.up_blocks.1.resnets.0.conv1"
};
// Called from the thread that called encode or decode, several times a second. Return false to
// cancel: the call then throws Error(kCancelled).
using ProgressCallback = std::function<bool(const Progress&)>;

// One layer as it ran, for `calotype bench --layers`.
struct LayerReport {
  std::string name;
  std::string algorithm;  // "winograd F(4,3)", "direct", "attention", …
  std::string means;   // how its result was there for its readers: "kept", "recomputed", "spilled"
  double seconds = 0;  // waits included
  double wait_seconds = 0;   // of these, for the scratch file
  double flop = 0;           // of the direct algorithm: 2 * multiply-adds
  double flop_executed = 0;  // what the chosen algorithm computes
  double bytes = 0;          // activations read and written once, weights read once
};

struct RunOptions {
  Backend backend = Backend::kAuto;
  Precision precision = Precision::kAuto;
  int device = 0;   // which GPU
  int threads = 0;  // 0: as many as the machine (or its cgroup and affinity mask) has
  // Peak bytes of the job: weights, activations, workspace, input and output tensors, and
  // kProgramBytes for the program itself; on a GPU, of its memory. Jobs that run at once in a
  // process share it: one that finds too little left takes a smaller plan, or waits. 0:
  // CALOTYPE_MEMORY, else three quarters of what is free. Between jobs a process that has a model
  // keeps at most a quarter of it and 2 GiB, for the next job to begin with.
  int64_t memory = 0;
  // Bytes that the caller has besides the input and that `memory` is to count: other pictures of a
  // batch, the source of a padded picture. The smallest budget that works is larger by as much.
  int64_t held_bytes = 0;
  std::string scratch;  // folder for what does not fit; empty: $TMPDIR, else /var/tmp
  ProgressCallback progress;
  std::vector<LayerReport>* layers = nullptr;  // filled when given
  // Told in one sentence, from the thread that called, where Backend::kAuto takes the CPU although
  // the machine has a GPU: one that cannot be used, or that has too little memory for the job.
  std::function<void(const std::string&)> notice;
};

// What a job will take, known before it runs.
struct Plan {
  double flop = 0;                 // of the direct algorithm: 2 * multiply-adds
  double flop_executed = 0;        // what the algorithms chosen compute, again or not
  double flop_again = 0;           // of these, what is computed again to save memory
  int64_t planned_peak_bytes = 0;  // all that RunOptions::memory counts
  int64_t minimum_bytes = 0;       // the smallest RunOptions::memory that works
  int64_t memory_bytes = 0;        // the bound that was planned for
  int64_t host_bytes = 0;          // on a GPU: of host memory, for what its own does not hold
  int64_t spilled_bytes = 0;       // written to the scratch file, in all
  double seconds = 0;              // expected; 0 where that is not known (some GPUs)
  Shape latents;                   // of the scaled latents, NHWC
  Shape image;                     // NHWC
};

// The diagonal Gaussian that the encoder predicts, unscaled: [B, H/f, W/f, latent_channels] each.
struct CALOTYPE_API Posterior {
  Tensor mean;
  Tensor logvar;  // clamped to [-30, 20]

  Tensor mode() const { return mean.clone(); }
  // mean + exp(logvar / 2) * noise. The noise depends on the seed, on the image's place in the
  // batch (`first_image` + b) and on the element's index in NCHW order alone: the same on every
  // machine.
  Tensor sample(uint64_t seed, uint64_t first_image = 0) const;
};

// Pictures, latents or moments in the memory of a GPU: the element at batch b, row y, column x and
// channel c lies strides[0] b + strides[1] y + strides[2] x + strides[3] c elements from `data`.
struct DeviceView {
  void* data = nullptr;
  DType dtype = DType::kF32;  // F32, F16 or BF16; pictures also U8
  Shape shape;                // NHWC, whatever the order in memory
  std::array<int64_t, 4> strides = {};
};

// Immutable; may be used from several threads at once.
class CALOTYPE_API AutoencoderKL {
 public:
  // See load_model for `name`. Throws Error(kNotFound, kInvalidData, kUnsupported).
  static AutoencoderKL load(const std::string& name = "", const LoadOptions& options = {});
  // Checks that the tensors are those of the config: wrong shapes, unknown tensors, incomplete
  // halves are refused by name.
  explicit AutoencoderKL(Model model);
  ~AutoencoderKL();
  AutoencoderKL(AutoencoderKL&&) noexcept;
  AutoencoderKL& operator=(AutoencoderKL&&) noexcept;

  const AutoencoderKLConfig& config() const;
  const Model& model() const;
  bool has_encoder() const;
  bool has_decoder() const;
  int64_t encoder_parameters() const;  // quant_conv included
  int64_t decoder_parameters() const;  // post_quant_conv included

  // Scaled latents [B, h, w, channels()] -> pictures [B, h*f, w*f, out_channels], in about [-1, 1],
  // not clamped.
  Tensor decode(const Tensor& latents, const RunOptions& options = {}) const;
  // Raw z [B, h, w, latent_channels] -> pictures. FLUX.2: z is not patched, f is half of
  // spatial_factor().
  Tensor decode_z(const Tensor& z, const RunOptions& options = {}) const;

  // Pictures [B, H, W, in_channels] in [-1, 1] -> the posterior of raw z. Throws
  // Error(kInvalidArgument) unless H and W are multiples of the factor (pad_to_factor does it).
  Posterior encode(const Tensor& image, const RunOptions& options = {}) const;

  // As decode and decode_z, in 8 bits: round(255 * clamp(y / 2 + 0.5)), dense NHWC. A GPU then
  // sends a quarter of the bytes.
  std::vector<uint8_t> decode_bytes(const Tensor& latents, const RunOptions& options = {}) const;
  std::vector<uint8_t> decode_z_bytes(const Tensor& z, const RunOptions& options = {}) const;

  // On the GPU `options.device`, from and to its memory, on `stream` (a cudaStream_t; null is the
  // default stream): nothing is copied and nothing is waited for. Latents are scaled, or raw z
  // where `raw`; moments are mean and logvar (not clamped) of raw z, 2 * latent_channels. The first
  // call of a size allocates, so it cannot be captured in a CUDA graph; later ones can. Throws as
  // decode does, and Error(kNotFound) where there is no GPU.
  void decode_on_device(const DeviceView& latents, bool raw, const DeviceView& image, void* stream,
                        const RunOptions& options = {}) const;
  void encode_on_device(const DeviceView& image, const DeviceView& moments, void* stream,
                        const RunOptions& options = {}) const;

  // What a job with these options runs on: the GPU's name, its kernels and the precision; "CPU", or
  // "CPU: " and why Backend::kAuto takes it, where the machine has a GPU.
  std::string backend_name(const RunOptions& options = {}) const;

  // Raw z <-> scaled latents, as the family defines them (scaling_factor, shift_factor,
  // latents_mean/std; FLUX.2: 2x2 patches, batch norm).
  Tensor scale(const Tensor& z) const;
  Tensor unscale(const Tensor& latents) const;

  // False for FLUX.2 weights without their batch-norm statistics: only raw z can be used, and
  // whatever needs scaled latents throws Error(kInvalidData).
  bool has_latent_space() const;
  // SHA-256 (hex) of what defines the latent space: channels, factor, patch, scaling, shift,
  // mean/std, batch-norm statistics.
  std::string latent_space_hash() const;

  Plan plan_decode(int64_t batch, int64_t height, int64_t width,
                   const RunOptions& options = {}) const;  // picture size
  Plan plan_encode(int64_t batch, int64_t height, int64_t width,
                   const RunOptions& options = {}) const;

 private:
  void check_sides(const Shape& picture) const;

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Every tensor that a config's network has, by its diffusers name, with its shape.
CALOTYPE_API std::vector<std::pair<std::string, Shape>> network_tensors(
    const AutoencoderKLConfig& config);
// A model of seeded random weights, for tests and benchmarks: the time and the memory of a network
// do not depend on its weights.
CALOTYPE_API Model random_model(const AutoencoderKLConfig& config, uint64_t seed,
                                DType dtype = DType::kBF16);

// What RunOptions::memory counts for the program: code and libraries as far as they are used,
// tables, threads. A program that does nothing but one job holds 8 to 9 MiB; calotype with its
// codecs 10.
constexpr int64_t kProgramBytes = int64_t{9} << 20;

// "1.3G", "700M", "65536": bytes, by powers of 1024. Throws Error(kInvalidArgument).
CALOTYPE_API int64_t parse_memory_size(const std::string& text);

// The bytes that RunOptions::memory stands for: itself, or where it is 0, what is said there.
CALOTYPE_API int64_t memory_budget(int64_t memory);

// Repeats the last row and column until both sides are multiples of `factor`. [B, H, W, C].
CALOTYPE_API Tensor pad_to_factor(const Tensor& image, int64_t factor);
// The top left H x W of each picture.
CALOTYPE_API Tensor crop(const Tensor& image, int64_t height, int64_t width);

}  // namespace calotype
