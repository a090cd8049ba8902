// The C interface: decoding and encoding on the caller's buffers.
#include <algorithm>
#include <span>

#include "calotype/image.h"
#include "capi/handle.h"

namespace calotype::capi {
namespace {

// Sides and channels of latents as a job has them.
struct LatentGrid {
  int64_t factor = 0, channels = 0;
};

LatentGrid latent_grid(const AutoencoderKLConfig& config, bool unscaled) {
  if (!unscaled) return {config.spatial_factor(), config.channels()};
  const int64_t patch = config.is_flux2() ? config.patch_size.front() : 1;
  return {config.spatial_factor() / patch, config.latent_channels};
}

calotype_shape c_shape(const Shape& shape) { return {shape[0], shape[1], shape[2], shape[3]}; }

Shape image_shape(const AutoencoderKL& vae, const calotype_shape& latents, bool unscaled) {
  const Shape from = shape_of(latents, "latents");
  const LatentGrid grid = latent_grid(vae.config(), unscaled);
  if (from[3] != grid.channels) {
    fail(ErrorCode::kInvalidArgument, "the latents have ", from[3], " channels; this model's ",
         unscaled ? "raw z has " : "latents have ", grid.channels);
  }
  return shape_of(
      {from[0], from[1] * grid.factor, from[2] * grid.factor, vae.config().out_channels},
      "pictures");
}

Shape latents_shape(const AutoencoderKL& vae, const calotype_shape& image, bool unscaled) {
  const Shape from = shape_of(image, "pictures");
  if (from[3] != vae.config().in_channels) {
    fail(ErrorCode::kInvalidArgument, "the pictures have ", from[3], " channels; this model takes ",
         vae.config().in_channels);
  }
  const int64_t factor = vae.config().spatial_factor();
  const LatentGrid grid = latent_grid(vae.config(), unscaled);
  const auto side = [&](int64_t pixels) {
    return (pixels + factor - 1) / factor * (factor / grid.factor);
  };
  return {from[0], side(from[1]), side(from[2]), grid.channels};
}

void check_count(const Shape& shape, size_t count, const char* what) {
  if (static_cast<int64_t>(count) == element_count(shape)) return;
  fail(ErrorCode::kInvalidArgument, "there is room for ", count, " values of ", what, ", but ",
       shape_string(shape), " (batch, height, width, channels) are ", element_count(shape));
}

// The caller's values as NHWC; without a copy where they are so.
Tensor take(const float* values, const Shape& nhwc, bool nchw) {
  if (!nchw) return Tensor::borrow(nhwc, values);
  return nchw_to_nhwc(Tensor::borrow({nhwc[0], nhwc[3], nhwc[1], nhwc[2]}, values));
}

Tensor take(const uint8_t* values, const Shape& nhwc, bool nchw) {
  Tensor image(nchw ? Shape{nhwc[0], nhwc[3], nhwc[1], nhwc[2]} : nhwc);
  from_uint8({values, static_cast<size_t>(image.size())}, image.values());
  return nchw ? nchw_to_nhwc(image) : std::move(image);
}

// Calls `copy` with the values in the caller's layout.
template <class Copy>
void give(const Tensor& nhwc, bool nchw, const Copy& copy) {
  if (nchw) {
    copy(nhwc_to_nchw(nhwc).values());
  } else {
    copy(nhwc.values());
  }
}

void give(const Tensor& nhwc, bool nchw, float* out) {
  give(nhwc, nchw,
       [out](std::span<const float> values) { std::copy(values.begin(), values.end(), out); });
}

void give(const Tensor& nhwc, bool nchw, uint8_t* out) {
  give(nhwc, nchw, [out](std::span<const float> values) {
    to_uint8(values, {out, values.size()});
  });
}

template <class Pixel>
calotype_status decode(const calotype_model* model, const float* latents,
                       const calotype_shape* shape, Pixel* image, size_t count,
                       const calotype_run_options* options) {
  return guarded([&] {
    const AutoencoderKL& vae = need_model(model);
    const Job job = job_options(options);
    const calotype_shape& given = need(shape, "the shape of the latents");
    check_count(image_shape(vae, given, job.unscaled), count, "pictures");
    need(image, "the buffer for pictures");
    const Tensor input =
        take(&need(latents, "the latents"), shape_of(given, "latents"), job.latents_nchw);
    const Tensor output = job.unscaled ? vae.decode_z(input, job.run) : vae.decode(input, job.run);
    give(output, job.image_nchw, image);
  });
}

template <class Pixel>
Posterior posterior_of(const AutoencoderKL& vae, const Pixel* image, const calotype_shape& shape,
                       const Job& job) {
  const Tensor input =
      take(&need(image, "the pictures"), shape_of(shape, "pictures"), job.image_nchw);
  const int64_t factor = vae.config().spatial_factor();
  const bool whole = input.dim(1) % factor == 0 && input.dim(2) % factor == 0;
  return whole ? vae.encode(input, job.run) : vae.encode(pad_to_factor(input, factor), job.run);
}

template <class Pixel>
calotype_status encode(const calotype_model* model, const Pixel* image, const calotype_shape* shape,
                       float* latents, size_t count, const calotype_run_options* options) {
  return guarded([&] {
    const AutoencoderKL& vae = need_model(model);
    const Job job = job_options(options);
    const calotype_shape& given = need(shape, "the shape of the pictures");
    check_count(latents_shape(vae, given, job.unscaled), count, "latents");
    need(latents, "the buffer for latents");
    const Posterior posterior = posterior_of(vae, image, given, job);
    Tensor values = job.sample ? posterior.sample(job.seed) : posterior.mode();
    if (!job.unscaled) values = vae.scale(values);
    give(values, job.latents_nchw, latents);
  });
}

// `plan` is AutoencoderKL::plan_decode or plan_encode.
template <class PlanFunction>
calotype_status plan_job(const calotype_model* model, const calotype_shape* image,
                         const calotype_run_options* options, calotype_plan* plan,
                         PlanFunction function) {
  return guarded([&] {
    const AutoencoderKL& vae = need_model(model);
    const Shape shape = shape_of(need(image, "the shape of the pictures"), "pictures");
    const Plan found = (vae.*function)(shape[0], shape[1], shape[2], job_options(options).run);
    calotype_plan out = calotype_plan_defaults();
    out.flop = found.flop;
    out.peak_bytes = found.planned_peak_bytes;
    out.minimum_bytes = found.minimum_bytes;
    out.seconds = found.seconds;
    write_struct(out, plan, "calotype_plan");
  });
}

}  // namespace
}  // namespace calotype::capi

using namespace calotype;        // NOLINT: the functions below cannot be in a namespace
using namespace calotype::capi;  // NOLINT

calotype_status calotype_image_shape(const calotype_model* model, const calotype_shape* latents,
                                     const calotype_run_options* options, calotype_shape* image) {
  return guarded([&] {
    need(image, "the place for the shape") =
        c_shape(image_shape(need_model(model), need(latents, "the shape of the latents"),
                            job_options(options).unscaled));
  });
}

calotype_status calotype_latents_shape(const calotype_model* model, const calotype_shape* image,
                                       const calotype_run_options* options,
                                       calotype_shape* latents) {
  return guarded([&] {
    need(latents, "the place for the shape") =
        c_shape(latents_shape(need_model(model), need(image, "the shape of the pictures"),
                              job_options(options).unscaled));
  });
}

calotype_status calotype_decode(const calotype_model* model, const float* latents,
                                const calotype_shape* latents_shape, float* image, size_t count,
                                const calotype_run_options* options) {
  return decode(model, latents, latents_shape, image, count, options);
}

calotype_status calotype_decode_u8(const calotype_model* model, const float* latents,
                                   const calotype_shape* latents_shape, uint8_t* image,
                                   size_t count, const calotype_run_options* options) {
  return decode(model, latents, latents_shape, image, count, options);
}

calotype_status calotype_encode(const calotype_model* model, const float* image,
                                const calotype_shape* image_shape, float* latents, size_t count,
                                const calotype_run_options* options) {
  return encode(model, image, image_shape, latents, count, options);
}

calotype_status calotype_encode_u8(const calotype_model* model, const uint8_t* image,
                                   const calotype_shape* image_shape, float* latents, size_t count,
                                   const calotype_run_options* options) {
  return encode(model, image, image_shape, latents, count, options);
}

calotype_status calotype_encode_moments(const calotype_model* model, const float* image,
                                        const calotype_shape* image_shape, float* mean,
                                        float* logvar, size_t count,
                                        const calotype_run_options* options) {
  return guarded([&] {
    const AutoencoderKL& vae = need_model(model);
    const Job job = job_options(options);
    const calotype_shape& given = need(image_shape, "the shape of the pictures");
    check_count(latents_shape(vae, given, true), count, "moments");
    need(mean, "the buffer for means");
    need(logvar, "the buffer for logarithms of variances");
    const Posterior posterior = posterior_of(vae, image, given, job);
    give(posterior.mean, job.latents_nchw, mean);
    give(posterior.logvar, job.latents_nchw, logvar);
  });
}

calotype_status calotype_plan_decode(const calotype_model* model, const calotype_shape* image,
                                     const calotype_run_options* options, calotype_plan* plan) {
  return plan_job(model, image, options, plan, &AutoencoderKL::plan_decode);
}

calotype_status calotype_plan_encode(const calotype_model* model, const calotype_shape* image,
                                     const calotype_run_options* options, calotype_plan* plan) {
  return plan_job(model, image, options, plan, &AutoencoderKL::plan_encode);
}
