#include "cli/batch.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "calotype/autoencoder_kl.h"
#include "cli/args.h"

namespace calotype::cli {
namespace {

Shape with_batch(Shape shape, int64_t count) {
  shape.at(0) = count;
  return shape;
}

// Copies `count` channels of every pixel, from channel `from` of `source` to channel `to` of
// `target`.
void copy_channels(const Tensor& source, int64_t from, Tensor& target, int64_t to, int64_t count) {
  const int64_t in = source.dim(3), out = target.dim(3), pixels = source.size() / in;
  for (int64_t p = 0; p < pixels; ++p) {
    std::copy_n(source.data() + p * in + from, count, target.data() + p * out + to);
  }
}

}  // namespace

Tensor picture_of(const Tensor& batch, int64_t b) {
  const int64_t size = batch.size() / batch.dim(0);
  return Tensor::borrow(with_batch(batch.shape(), 1), batch.data() + b * size);
}

Tensor padded_picture(const Tensor& image, int64_t factor) {
  const bool fits = image.dim(1) % factor == 0 && image.dim(2) % factor == 0;
  return fits ? Tensor::borrow(image.shape(), image.data()) : pad_to_factor(image, factor);
}

Tensor cropped_picture(Tensor image, int64_t height, int64_t width) {
  const bool whole = image.dim(1) == height && image.dim(2) == width;
  return whole ? std::move(image) : crop(image, height, width);
}

void put_picture(Tensor& batch, int64_t b, int64_t count, const Tensor& picture) {
  if (batch.size() == 0) batch = Tensor(with_batch(picture.shape(), count));
  std::ranges::copy(picture.values(), batch.data() + b * picture.size());
}

void check_finite(const Tensor& result, const std::string& input, const std::string& model) {
  int others = 0;  // no early end: compilers make vectors of it
  for (const float value : result.values()) others |= static_cast<int>(!std::isfinite(value));
  if (others == 0) return;
  throw Error(
      ErrorCode::kInvalidData,
      display_name(input, true) + ": the result holds NaN or infinity and is not written; " +
          "the weights of the model " + model +
          " may be damaged (try --verify, or another copy), or too large for --precision f16");
}

Tensor channels_of(const Tensor& tensor, int64_t first, int64_t count) {
  Tensor part({tensor.dim(0), tensor.dim(1), tensor.dim(2), count});
  copy_channels(tensor, first, part, 0, count);
  return part;
}

Tensor join_channels(const Tensor& a, const Tensor& b) {
  Tensor both({a.dim(0), a.dim(1), a.dim(2), a.dim(3) + b.dim(3)});
  copy_channels(a, 0, both, 0, a.dim(3));
  copy_channels(b, 0, both, a.dim(3), b.dim(3));
  return both;
}

}  // namespace calotype::cli
