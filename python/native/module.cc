// calotype._native: models, decoding and encoding on arrays. The package's own classes, which check
// and name arguments, stand before it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <tuple>

#include "arrays.h"
#include "calotype/machine.h"
#include "calotype/version.h"
#include "job.h"

namespace calotype::python {
namespace {

using namespace nb::literals;  // NOLINT: "name"_a

// Raised as the class of calotype._errors that stands for the code.
void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    const nb::object classes = nb::module_::import_("calotype._errors").attr("BY_CODE");
    PyErr_SetString(nb::object(classes[static_cast<int>(error.code())]).ptr(), error.what());
  }
}

// [-1, 1] to [0, 1], clamped; NaN to 0, as in the 8-bit pictures.
void to_unit(std::span<float> values) {
  for (float& value : values) {
    const float unit = value / 2 + 0.5f;
    value = unit > 0 ? std::min(unit, 1.0f) : 0.0f;
  }
}

FloatArray nchw_array(const Tensor& nhwc) { return to_numpy(nhwc_to_nchw(nhwc)); }

// Picture pixels per pixel of scaled latents, or of raw z.
int64_t factor_of(const AutoencoderKLConfig& config, bool unscaled) {
  return config.spatial_factor() / (unscaled && config.is_flux2() ? config.patch_size.front() : 1);
}

nb::object decode(const AutoencoderKL& vae, const AnyArray& latents, const std::string& layout,
                  bool unscaled, const std::string& pixels, const JobArguments& arguments) {
  if (pixels == "uint8") {  // made where the job runs: a GPU sends a quarter of the bytes
    Shape shape;
    std::vector<uint8_t> bytes = Job(arguments).run([&](const RunOptions& options) {
      const Tensor input = to_tensor(latents, layout, 1, 0);
      const int64_t factor = factor_of(vae.config(), unscaled);
      shape = {input.dim(0), input.dim(1) * factor, input.dim(2) * factor,
               vae.config().out_channels};
      return unscaled ? vae.decode_z_bytes(input, options) : vae.decode_bytes(input, options);
    });
    return nb::cast(to_numpy(std::move(bytes), shape));
  }
  Tensor image = Job(arguments).run([&](const RunOptions& options) {
    const Tensor input = to_tensor(latents, layout, 1, 0);
    Tensor output = unscaled ? vae.decode_z(input, options) : vae.decode(input, options);
    if (pixels == "unit") to_unit(output.values());
    return output;
  });
  return nb::cast(to_numpy(std::move(image)));
}

Posterior posterior_of(const AutoencoderKL& vae, const AnyArray& image, const std::string& layout,
                       float scale, float offset, const RunOptions& options) {
  const Tensor input = to_tensor(image, layout, scale, offset);
  const int64_t factor = vae.config().spatial_factor();
  const bool whole = input.dim(1) % factor == 0 && input.dim(2) % factor == 0;
  return whole ? vae.encode(input, options) : vae.encode(pad_to_factor(input, factor), options);
}

FloatArray encode(const AutoencoderKL& vae, const AnyArray& image, const std::string& layout,
                  float scale, float offset, std::optional<uint64_t> seed, bool unscaled,
                  const JobArguments& arguments) {
  return to_numpy(Job(arguments).run([&](const RunOptions& options) {
    const Posterior posterior = posterior_of(vae, image, layout, scale, offset, options);
    Tensor z = seed ? posterior.sample(*seed) : posterior.mode();
    if (!unscaled) z = vae.scale(z);
    return nhwc_to_nchw(z);
  }));
}

std::tuple<FloatArray, FloatArray> moments(const AutoencoderKL& vae, const AnyArray& image,
                                           const std::string& layout, float scale, float offset,
                                           const JobArguments& arguments) {
  const Posterior posterior = Job(arguments).run([&](const RunOptions& options) {
    return posterior_of(vae, image, layout, scale, offset, options);
  });
  return {nchw_array(posterior.mean), nchw_array(posterior.logvar)};
}

// Memory of a GPU as Python describes it: address, dtype, shape (NHWC) and strides (of n, h, w, c)
// in elements.
using DeviceArguments =
    std::tuple<uintptr_t, std::string, std::vector<int64_t>, std::vector<int64_t>>;

DeviceView to_device_view(const DeviceArguments& arguments) {
  const auto& [address, dtype, shape, strides] = arguments;
  static const std::map<std::string, DType> kTypes = {{"float32", DType::kF32},
                                                      {"float16", DType::kF16},
                                                      {"bfloat16", DType::kBF16},
                                                      {"uint8", DType::kU8}};
  DeviceView view;
  view.data = reinterpret_cast<void*>(address);
  view.dtype = kTypes.at(dtype);
  view.shape = shape;
  std::copy_n(strides.begin(), view.strides.size(), view.strides.begin());
  return view;
}

void decode_on_device(const AutoencoderKL& vae, const DeviceArguments& latents, bool unscaled,
                      const DeviceArguments& image, uintptr_t stream,
                      const JobArguments& arguments) {
  Job(arguments).run([&](const RunOptions& options) {
    vae.decode_on_device(to_device_view(latents), unscaled, to_device_view(image),
                         reinterpret_cast<void*>(stream), options);
    return true;
  });
}

void encode_on_device(const AutoencoderKL& vae, const DeviceArguments& image,
                      const DeviceArguments& moments, uintptr_t stream,
                      const JobArguments& arguments) {
  Job(arguments).run([&](const RunOptions& options) {
    vae.encode_on_device(to_device_view(image), to_device_view(moments),
                         reinterpret_cast<void*>(stream), options);
    return true;
  });
}

// mean + exp(logvar / 2) * noise, as Posterior::sample.
FloatArray sample(const AnyArray& mean, const AnyArray& logvar, uint64_t seed) {
  Posterior posterior;
  posterior.mean = to_tensor(mean, "NCHW", 1, 0);
  posterior.logvar = to_tensor(logvar, "NCHW", 1, 0);
  return nchw_array(posterior.sample(seed));
}

// Keeps a Python object alive for as long as C++ needs its memory.
std::shared_ptr<const void> keep(nb::object object) {
  auto kept = std::make_unique<nb::object>(std::move(object));
  return {kept.release(), [](const nb::object* p) {
            const nb::gil_scoped_acquire acquire;
            std::unique_ptr<const nb::object>{p};
          }};
}

std::unique_ptr<AutoencoderKL> from_tensors(const std::map<std::string, AnyArray>& tensors,
                                            const std::optional<std::string>& config_json,
                                            const std::string& source, const std::string& family,
                                            nb::object owner) {
  std::map<std::string, TensorView> views;
  for (const auto& [name, array] : tensors) views[name] = to_view(array, name);
  LoadOptions options;
  options.family = family;
  return std::make_unique<AutoencoderKL>(
      model_from_tensors(std::move(views), config_json, {keep(std::move(owner))}, source, options));
}

std::unique_ptr<AutoencoderKL> load(const std::string& name, const std::string& family,
                                    bool verify) {
  const nb::gil_scoped_release release;
  return std::make_unique<AutoencoderKL>(load_model(name, {.family = family, .verify = verify}));
}

// (channels, factor) of scaled latents and of raw z.
std::tuple<int64_t, int64_t, int64_t, int64_t> grid(const AutoencoderKL& vae) {
  const AutoencoderKLConfig& config = vae.config();
  return {config.channels(), config.spatial_factor(), config.latent_channels,
          factor_of(config, true)};
}

// (FLOP, peak bytes) of a job on pictures.
std::tuple<double, int64_t> plan(const AutoencoderKL& vae, const std::string& job, int64_t batch,
                                 int64_t height, int64_t width, const JobArguments& arguments) {
  const Plan found = Job(arguments).run([&](const RunOptions& options) {
    return job == "encode" ? vae.plan_encode(batch, height, width, options)
                           : vae.plan_decode(batch, height, width, options);
  });
  return {found.flop, found.planned_peak_bytes};
}

nb::list models() {
  nb::list entries;
  for (const ModelEntry& entry : list_models()) {
    entries.append(nb::make_tuple(entry.name, entry.container, entry.path, entry.family,
                                  entry.problem, entry.bytes));
  }
  return entries;
}

void bind_model(nb::module_& m) {
  nb::class_<JobArguments>(m, "JobArguments")
      .def(
          "__init__",
          [](JobArguments* place, std::string backend, std::string precision, int device,
             int threads, int64_t memory, std::string scratch, nb::object progress) {
            std::construct_at(
                place, JobArguments{std::move(backend), std::move(precision), device, threads,
                                    memory, std::move(scratch), std::move(progress)});
          },
          "backend"_a, "precision"_a, "device"_a, "threads"_a, "memory"_a, "scratch"_a,
          "progress"_a.none());
  nb::class_<AutoencoderKL>(m, "Model")
      .def_static("load", &load, "name"_a, "family"_a, "verify"_a)
      .def_static("from_tensors", &from_tensors, "tensors"_a, "config_json"_a.none(), "source"_a,
                  "family"_a, "owner"_a.none())
      .def("decode", &decode, "latents"_a, "layout"_a, "unscaled"_a, "pixels"_a, "job"_a)
      .def("encode", &encode, "image"_a, "layout"_a, "scale"_a, "offset"_a, "seed"_a.none(),
           "unscaled"_a, "job"_a)
      .def("decode_on_device", &decode_on_device, "latents"_a, "unscaled"_a, "image"_a, "stream"_a,
           "job"_a)
      .def("encode_on_device", &encode_on_device, "image"_a, "moments"_a, "stream"_a, "job"_a)
      .def("moments", &moments, "image"_a, "layout"_a, "scale"_a, "offset"_a, "job"_a)
      .def(
          "scale",
          [](const AutoencoderKL& vae, const AnyArray& z) {
            return nchw_array(vae.scale(to_tensor(z, "NCHW", 1, 0)));
          },
          "z"_a)
      .def(
          "unscale",
          [](const AutoencoderKL& vae, const AnyArray& latents) {
            return nchw_array(vae.unscale(to_tensor(latents, "NCHW", 1, 0)));
          },
          "latents"_a)
      .def("plan", &plan, "job"_a, "batch"_a, "height"_a, "width"_a, "arguments"_a)
      .def("latent_space_hash", &AutoencoderKL::latent_space_hash)
      .def_prop_ro("grid", &grid)
      .def_prop_ro("config_json", [](const AutoencoderKL& vae) { return vae.config().to_json(); })
      .def_prop_ro("has_encoder", &AutoencoderKL::has_encoder)
      .def_prop_ro("has_decoder", &AutoencoderKL::has_decoder)
      .def_prop_ro("source", [](const AutoencoderKL& vae) { return vae.model().source; })
      .def_prop_ro("family", [](const AutoencoderKL& vae) { return vae.model().family; })
      .def_prop_ro("config_inferred",
                   [](const AutoencoderKL& vae) { return vae.model().config_inferred; })
      .def_prop_ro(
          "weights",
          [](const AutoencoderKL& vae) {
            nb::list weights;  // (name, shape, bytes)
            for (const auto& [name, view] : vae.model().tensors) {
              weights.append(nb::make_tuple(name, view.shape, byte_count(view.dtype, view.shape)));
            }
            return weights;
          })
      .def(
          "tensor",
          [](const AutoencoderKL& vae, const std::string& name) -> nb::object {
            const auto found = vae.model().tensors.find(name);
            if (found == vae.model().tensors.end()) return nb::none();
            const Shape& shape = found->second.shape;
            Tensor values({shape.empty() ? 1 : element_count(shape), 1, 1, 1});
            copy_elements(found->second, 0, values.values());
            return nb::make_tuple(to_numpy(std::move(values)), shape);
          },
          "name"_a);
}

}  // namespace
}  // namespace calotype::python

NB_MODULE(_native, m) {
  using namespace calotype::python;  // NOLINT
  nb::register_exception_translator(translate, nullptr);
  m.attr("version") = CALOTYPE_VERSION;
  bind_model(m);
  m.def("bfloat_bits", &bfloat_bits, nb::arg("array"));
  m.def("list_models", &models);
  m.def("sample", &sample, nb::arg("mean"), nb::arg("logvar"), nb::arg("seed"));
  m.def("default_threads", &calotype::default_threads);
  m.def("parse_memory_size", &calotype::parse_memory_size, nb::arg("text"));
}
