#include "calotype/autoencoder_kl.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <span>

#include "calotype/image.h"
#include "core/cat.h"
#include "core/checked.h"
#include "model/decoder.h"
#include "model/device.h"
#include "model/encoder.h"
#include "model/job.h"
#include "model/latent_space.h"
#include "model/tensor_source.h"
#include "ops/kept_memory.h"

namespace calotype {
namespace {

bool has_prefix(const Model& model, const std::string& prefix) {
  const auto found = model.tensors.lower_bound(prefix);
  return found != model.tensors.end() && found->first.starts_with(prefix);
}

void refuse_unknown_tensors(const Model& model, const std::set<std::string>& known) {
  for (const auto& [name, view] : model.tensors) {
    if (known.contains(name) || name == "bn.num_batches_tracked") continue;
    fail(ErrorCode::kInvalidData, model.source, ": the tensor ", name, " of shape ",
         shape_string(view.shape), " is not part of the network that the config describes");
  }
}

int64_t parameters(const Model& model, const std::set<std::string>& names) {
  int64_t total = 0;
  for (const std::string& name : names) total += model.tensors.at(name).size();
  return total;
}

std::vector<double> numbers(const TensorView& view) {
  std::vector<double> values(static_cast<size_t>(view.size()));
  copy_elements(view, 0, std::span<double>(values));
  return values;
}

// `what` is "latents", "z" or "picture".
void check_input(const Shape& s, int64_t channels, const char* what) {
  if (s.size() != 4 || s[3] != channels ||
      std::any_of(s.begin(), s.end(), [](int64_t side) { return side < 1; })) {
    fail(ErrorCode::kInvalidArgument, "the ", what, " must have the shape [batch, height, width, ",
         channels, "], not ", shape_string(s));
  }
}

}  // namespace

struct AutoencoderKL::Impl {
  Model model;
  std::optional<Encoder> encoder;
  std::optional<Decoder> decoder;
  std::optional<LatentSpace> latent_space;
  int64_t encoder_parameters = 0, decoder_parameters = 0;
  mutable DeviceSessions sessions;
  std::shared_ptr<KeptMemory> kept = KeptMemory::shared();  // between this model's jobs

  const Encoder& need_encoder() const {
    if (!encoder)
      fail(ErrorCode::kUnsupported, model.source, ": has no encoder tensors, so it cannot encode");
    return *encoder;
  }
  const Decoder& need_decoder() const {
    if (!decoder)
      fail(ErrorCode::kUnsupported, model.source, ": has no decoder tensors, so it cannot decode");
    return *decoder;
  }
  const LatentSpace& need_latent_space() const {
    if (!latent_space) {
      fail(ErrorCode::kInvalidData, model.source,
           ": the tensors bn.running_mean and bn.running_var, which scale FLUX.2's "
           "latents, are missing; raw z (--unscaled) can be used");
    }
    return *latent_space;
  }
  // `on_gpu(session)`, or `on_cpu()` where there is no GPU, or one that nobody asked for and whose
  // memory does not suffice.
  template <class OnGpu, class OnCpu>
  auto where_it_fits(const RunOptions& options, const OnGpu& on_gpu, const OnCpu& on_cpu) const {
    std::string reason;
    const size_t layers = options.layers != nullptr ? options.layers->size() : 0;
    if (const auto session = sessions.open(options, model.config, &reason)) {
      try {
        return on_gpu(*session);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kOutOfMemory || !cpu_may_take(options)) throw;
        if (options.layers != nullptr) options.layers->resize(layers);
        reason = cat("the job takes more memory than the GPU has for it: ", error.what());
      }
    }
    if (!reason.empty() && options.notice) options.notice(reason);
    return on_cpu();
  }
  Tensor run(const Graph& graph, const Tensor& input, const RunOptions& options) const {
    const auto on_gpu = [&](DeviceSession& session) {
      const Extent out = graph.extent(graph.output());
      Tensor output({input.dim(0), out.h, out.w, out.c});
      run_on_device(session, graph, input, output.data(), DType::kF32, options);
      return output;
    };
    const auto on_cpu = [&] { return Job(graph, model, input.dim(0), options).run(input); };
    return where_it_fits(options, on_gpu, on_cpu);
  }
  Plan plan(const Graph& graph, int64_t batch, const RunOptions& options) const {
    return where_it_fits(
        options,
        [&](DeviceSession& session) { return plan_on_device(session, graph, batch, options); },
        [&] { return Job(graph, model, batch, options).plan(); });
  }
  // Picture pixels per pixel of z.
  int64_t z_factor() const { return int64_t{1} << (model.config.block_out_channels.size() - 1); }
};

AutoencoderKL AutoencoderKL::load(const std::string& name, const LoadOptions& options) {
  return AutoencoderKL(load_model(name, options));
}

AutoencoderKL::AutoencoderKL(Model model) : impl_(std::make_unique<Impl>()) {
  impl_->model = std::move(model);
  const Model& m = impl_->model;
  const AutoencoderKLConfig& config = m.config;
  config.validate(m.source);
  ModelTensors tensors(m);
  if (has_prefix(m, "encoder.")) {
    impl_->encoder.emplace(tensors, config);
    impl_->encoder_parameters = parameters(m, tensors.used());
  }
  if (has_prefix(m, "decoder.")) {
    impl_->decoder.emplace(tensors, config);
    impl_->decoder_parameters = parameters(m, tensors.used()) - impl_->encoder_parameters;
  }
  if (!impl_->encoder && !impl_->decoder) {
    fail(ErrorCode::kInvalidData, m.source,
         ": has neither encoder nor decoder tensors of an AutoencoderKL");
  }
  std::set<std::string> known = tensors.used();
  if (config.is_flux2()) {
    if (m.tensors.contains("bn.running_mean") || m.tensors.contains("bn.running_var")) {
      const Shape shape = {config.channels()};
      impl_->latent_space.emplace(config, numbers(tensors.tensor("bn.running_mean", shape)),
                                  numbers(tensors.tensor("bn.running_var", shape)));
      known = tensors.used();
    }
  } else {
    impl_->latent_space.emplace(config, std::vector<double>(), std::vector<double>());
  }
  // The 1x1 convolution of a half that is absent is no stranger.
  if (!impl_->encoder) known.insert({"quant_conv.weight", "quant_conv.bias"});
  if (!impl_->decoder) known.insert({"post_quant_conv.weight", "post_quant_conv.bias"});
  refuse_unknown_tensors(m, known);
}

AutoencoderKL::~AutoencoderKL() = default;
AutoencoderKL::AutoencoderKL(AutoencoderKL&&) noexcept = default;
AutoencoderKL& AutoencoderKL::operator=(AutoencoderKL&&) noexcept = default;

const AutoencoderKLConfig& AutoencoderKL::config() const { return impl_->model.config; }
const Model& AutoencoderKL::model() const { return impl_->model; }
bool AutoencoderKL::has_encoder() const { return impl_->encoder.has_value(); }
bool AutoencoderKL::has_decoder() const { return impl_->decoder.has_value(); }
bool AutoencoderKL::has_latent_space() const { return impl_->latent_space.has_value(); }
int64_t AutoencoderKL::encoder_parameters() const { return impl_->encoder_parameters; }
int64_t AutoencoderKL::decoder_parameters() const { return impl_->decoder_parameters; }

namespace {

// z is made from latents that the caller still has.
RunOptions with_latents(const Shape& latents, RunOptions options) {
  options.held_bytes = checked_add(options.held_bytes, byte_count(DType::kF32, latents));
  return options;
}

}  // namespace

Tensor AutoencoderKL::decode(const Tensor& latents, const RunOptions& options) const {
  return decode_z(unscale(latents), with_latents(latents.shape(), options));
}

Tensor AutoencoderKL::decode_z(const Tensor& z, const RunOptions& options) const {
  const Decoder& decoder = impl_->need_decoder();
  check_input(z.shape(), config().latent_channels, "z");
  return impl_->run(decoder.graph(z.dim(1), z.dim(2)), z, options);
}

std::vector<uint8_t> AutoencoderKL::decode_bytes(const Tensor& latents,
                                                 const RunOptions& options) const {
  return decode_z_bytes(unscale(latents), with_latents(latents.shape(), options));
}

std::vector<uint8_t> AutoencoderKL::decode_z_bytes(const Tensor& z,
                                                   const RunOptions& options) const {
  const Decoder& decoder = impl_->need_decoder();
  check_input(z.shape(), config().latent_channels, "z");
  const Graph graph = decoder.graph(z.dim(1), z.dim(2));
  const Extent out = graph.extent(graph.output());
  const auto size = static_cast<size_t>(element_count({z.dim(0), out.h, out.w, out.c}));
  const auto on_gpu = [&](DeviceSession& session) {
    std::vector<uint8_t> bytes(size);
    run_on_device(session, graph, z, bytes.data(), DType::kU8, options);
    return bytes;
  };
  const auto on_cpu = [&] {
    const Tensor image = Job(graph, model(), z.dim(0), options).run(z);
    std::vector<uint8_t> bytes(size);
    to_uint8(image.values(), bytes);
    return bytes;
  };
  return impl_->where_it_fits(options, on_gpu, on_cpu);
}

namespace {

DeviceArray array_of(const DeviceView& view, bool may_be_bytes, const char* what) {
  const bool known = view.dtype == DType::kF32 || view.dtype == DType::kF16 ||
                     view.dtype == DType::kBF16 || (may_be_bytes && view.dtype == DType::kU8);
  if (!known) {
    fail(ErrorCode::kInvalidArgument, "the ", what, " on the GPU cannot be of dtype ",
         dtype_name(view.dtype), "; F32, F16 and BF16 can", may_be_bytes ? ", and U8" : "");
  }
  return {view.data, view.dtype, view.strides, true};
}

void check_shape(const Shape& shape, const Shape& expected, const char* what) {
  if (shape == expected) return;
  fail(ErrorCode::kInvalidArgument, "the ", what, " must have the shape ", shape_string(expected),
       ", not ", shape_string(shape));
}

RunOptions on_gpu(RunOptions options) {
  options.backend = Backend::kCuda;
  return options;
}

}  // namespace

void AutoencoderKL::decode_on_device(const DeviceView& latents, bool raw, const DeviceView& image,
                                     void* stream, const RunOptions& options) const {
  const Decoder& decoder = impl_->need_decoder();
  InputMap map;
  int64_t channels = config().latent_channels;
  if (!raw) {
    const LatentSpace& space = impl_->need_latent_space();
    channels = space.channels();
    map.patch = space.patch();
    for (size_t c = 0; c < space.mean().size(); c++) {
      map.scale.push_back(static_cast<float>(1 / space.factor()[c]));
      map.offset.push_back(static_cast<float>(space.mean()[c]));
    }
  }
  check_input(latents.shape, channels, raw ? "z" : "latents");
  const Graph graph = decoder.graph(latents.shape[1] * map.patch, latents.shape[2] * map.patch);
  const Extent out = graph.extent(graph.output());
  check_shape(image.shape, {latents.shape[0], out.h, out.w, out.c}, "picture");
  DeviceCall call;
  call.graph = &graph;
  call.batch = latents.shape[0];
  call.input = array_of(latents, false, "latents");
  call.output = array_of(image, true, "picture");
  call.map = &map;
  call.stream = stream;
  call.memory = memory_asked_for(options.memory);
  call.layers = options.layers;
  impl_->sessions.open(on_gpu(options), config())->run(call);
}

void AutoencoderKL::encode_on_device(const DeviceView& image, const DeviceView& moments,
                                     void* stream, const RunOptions& options) const {
  const Encoder& encoder = impl_->need_encoder();
  check_input(image.shape, config().in_channels, "picture");
  check_sides(image.shape);
  const Graph graph = encoder.graph(image.shape[1], image.shape[2]);
  const Extent out = graph.extent(graph.output());
  check_shape(moments.shape, {image.shape[0], out.h, out.w, out.c}, "array of moments");
  DeviceCall call;
  call.graph = &graph;
  call.batch = image.shape[0];
  call.input = array_of(image, true, "picture");
  call.output = array_of(moments, false, "moments");
  call.stream = stream;
  call.memory = memory_asked_for(options.memory);
  call.layers = options.layers;
  impl_->sessions.open(on_gpu(options), config())->run(call);
}

std::string AutoencoderKL::backend_name(const RunOptions& options) const {
  if (options.backend == Backend::kReference) return "reference";
  std::string reason;
  const auto session = impl_->sessions.open(options, config(), &reason);
  if (session) return session->description();
  return reason.empty() ? "CPU" : "CPU: " + reason;
}

void AutoencoderKL::check_sides(const Shape& picture) const {
  const int64_t factor = config().spatial_factor();
  if (picture[1] % factor != 0 || picture[2] % factor != 0) {
    fail(ErrorCode::kInvalidArgument, "the picture is ", picture[2], "x", picture[1],
         "; its sides must be multiples of ", factor, " (pad_to_factor pads it)");
  }
}

Posterior AutoencoderKL::encode(const Tensor& image, const RunOptions& options) const {
  const Encoder& encoder = impl_->need_encoder();
  check_input(image.shape(), config().in_channels, "picture");
  check_sides(image.shape());
  const Tensor moments = impl_->run(encoder.graph(image.dim(1), image.dim(2)), image, options);
  Posterior posterior;
  const int64_t channels = config().latent_channels, pixels = moments.size() / (2 * channels);
  const Shape shape = {moments.dim(0), moments.dim(1), moments.dim(2), channels};
  posterior.mean = Tensor(shape);
  posterior.logvar = Tensor(shape);
  for (int64_t p = 0; p < pixels; p++) {
    const float* from = moments.data() + p * 2 * channels;
    std::copy(from, from + channels, posterior.mean.data() + p * channels);
    std::transform(from + channels, from + 2 * channels, posterior.logvar.data() + p * channels,
                   [](float v) { return std::clamp(v, -30.0f, 20.0f); });
  }
  return posterior;
}

Tensor AutoencoderKL::scale(const Tensor& z) const {
  check_input(z.shape(), config().latent_channels, "z");
  return impl_->need_latent_space().scale(z);
}

Tensor AutoencoderKL::unscale(const Tensor& latents) const {
  const LatentSpace& space = impl_->need_latent_space();
  check_input(latents.shape(), space.channels(), "latents");
  return space.unscale(latents);
}

std::string AutoencoderKL::latent_space_hash() const {
  return impl_->need_latent_space().hash(config().spatial_factor());
}

namespace {

// The picture's sides in pixels of z, rounded up to what the family's latents can hold.
std::pair<int64_t, int64_t> padded(const AutoencoderKLConfig& config, int64_t height,
                                   int64_t width) {
  if (height < 1 || width < 1) {
    fail(ErrorCode::kInvalidArgument, "a picture of ", width, "x", height,
         " pixels cannot be; both sides must be positive");
  }
  const int64_t factor = config.spatial_factor();
  const auto up = [&](int64_t side) {
    return checked_mul((checked_add(side, factor - 1)) / factor, factor);
  };
  return {up(height), up(width)};
}

}  // namespace

Plan AutoencoderKL::plan_decode(int64_t batch, int64_t height, int64_t width,
                                const RunOptions& options) const {
  const auto [h, w] = padded(config(), height, width);
  const Graph graph = impl_->need_decoder().graph(h / impl_->z_factor(), w / impl_->z_factor());
  const int64_t factor = config().spatial_factor();
  const Shape latents = {batch, h / factor, w / factor, config().channels()};
  Plan plan = impl_->plan(graph, batch, with_latents(latents, options));
  plan.latents = latents;
  plan.image = {batch, h, w, config().out_channels};
  return plan;
}

Plan AutoencoderKL::plan_encode(int64_t batch, int64_t height, int64_t width,
                                const RunOptions& options) const {
  const auto [h, w] = padded(config(), height, width);
  const Graph graph = impl_->need_encoder().graph(h, w);
  Plan plan = impl_->plan(graph, batch, options);
  const int64_t factor = config().spatial_factor();
  plan.latents = {batch, h / factor, w / factor, config().channels()};
  plan.image = {batch, h, w, config().in_channels};
  return plan;
}

Tensor pad_to_factor(const Tensor& image, int64_t factor) {
  const int64_t n = image.dim(0), h = image.dim(1), w = image.dim(2), c = image.dim(3);
  const int64_t padded_h = (h + factor - 1) / factor * factor,
                padded_w = (w + factor - 1) / factor * factor;
  Tensor padded({n, padded_h, padded_w, c});
  float* out = padded.data();
  for (int64_t b = 0; b < n; b++) {
    for (int64_t y = 0; y < padded_h; y++) {
      const float* row = image.data() + (b * h + std::min(y, h - 1)) * w * c;
      out = std::copy(row, row + w * c, out);
      for (int64_t x = w; x < padded_w; x++) out = std::copy(row + (w - 1) * c, row + w * c, out);
    }
  }
  return padded;
}

Tensor crop(const Tensor& image, int64_t height, int64_t width) {
  const int64_t n = image.dim(0), h = image.dim(1), w = image.dim(2), c = image.dim(3);
  if (height < 1 || width < 1 || height > h || width > w) {
    fail(ErrorCode::kInvalidArgument, "a picture of ", w, "x", h, " cannot be cropped to ", width,
         "x", height);
  }
  Tensor cropped({n, height, width, c});
  for (int64_t b = 0; b < n; b++) {
    for (int64_t y = 0; y < height; y++) {
      const float* row = image.data() + (b * h + y) * w * c;
      std::copy(row, row + width * c, cropped.data() + (b * height + y) * width * c);
    }
  }
  return cropped;
}

}  // namespace calotype
