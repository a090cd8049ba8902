// The C interface: pictures and latents in files.
#include <cstdlib>
#include <new>

#include "calotype/image.h"
#include "calotype/latents.h"
#include "capi/handle.h"

namespace calotype::capi {
namespace {

template <class T>
T* allocate(int64_t count) {
  auto* values = static_cast<T*>(std::malloc(static_cast<size_t>(count) * sizeof(T)));
  if (values == nullptr) throw std::bad_alloc();
  return values;
}

// Scaled latents, NHWC, of whatever a file holds.
Tensor scaled_latents(const AutoencoderKL& vae, LatentFile file) {
  if (file.moments) {
    const int64_t channels = file.latents.dim(3) / 2, pixels = file.latents.size() / channels / 2;
    Tensor mean({file.latents.dim(0), file.latents.dim(1), file.latents.dim(2), channels});
    for (int64_t p = 0; p < pixels; p++) {
      std::copy_n(file.latents.data() + p * channels * 2, channels, mean.data() + p * channels);
    }
    return vae.scale(mean);
  }
  return file.unscaled ? vae.scale(file.latents) : std::move(file.latents);
}

}  // namespace
}  // namespace calotype::capi

using namespace calotype;        // NOLINT: the functions below cannot be in a namespace
using namespace calotype::capi;  // NOLINT

calotype_status calotype_write_image(const char* path, const uint8_t* pixels,
                                     const calotype_shape* shape, int32_t quality) {
  return guarded([&] {
    const Shape sides = shape_of(need(shape, "the shape of the picture"), "picture");
    const uint8_t* bytes = &need(pixels, "the picture");
    WriteImageOptions options;
    if (quality != 0) options.quality = quality;
    Tensor image(sides);
    from_uint8({bytes, static_cast<size_t>(image.size())}, image.values());
    write_image(image, &need(path, "the path"), options);
  });
}

calotype_status calotype_read_image(const char* path, uint8_t** pixels, calotype_shape* shape) {
  return guarded([&] {
    need(pixels, "the place for the picture") = nullptr;
    calotype_shape& out = need(shape, "the place for the shape");
    const Tensor image = read_image(&need(path, "the path"));
    *pixels = allocate<uint8_t>(image.size());
    to_uint8(image.values(), {*pixels, static_cast<size_t>(image.size())});
    out = {image.dim(0), image.dim(1), image.dim(2), image.dim(3)};
  });
}

calotype_status calotype_read_latents(const calotype_model* model, const char* path,
                                      float** latents, calotype_shape* shape) {
  return guarded([&] {
    const AutoencoderKL& vae = need_model(model);
    need(latents, "the place for the latents") = nullptr;
    calotype_shape& out = need(shape, "the place for the shape");
    const Tensor scaled = scaled_latents(vae, read_latents(&need(path, "the path"), vae.config()));
    const Tensor nchw = nhwc_to_nchw(scaled);
    *latents = allocate<float>(nchw.size());
    std::copy_n(nchw.data(), nchw.size(), *latents);
    out = {scaled.dim(0), scaled.dim(1), scaled.dim(2), scaled.dim(3)};
  });
}

void calotype_free_buffer(void* buffer) { std::free(buffer); }
