// ICC profiles, by Little CMS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "image/bitmap.h"

namespace calotype {

// From the colours of an embedded profile to sRGB.
class ColourTransform {
 public:
  // Throws Error(kInvalidData) where the profile is damaged or of another colour model.
  // `is_identity` is true for profiles that are sRGB (or its grey) to within a quarter of a step of
  // `bits`.
  ColourTransform(std::span<const std::byte> icc, ColourModel model, int bits,
                  const std::string& file);
  ~ColourTransform();
  ColourTransform(const ColourTransform&) = delete;
  ColourTransform& operator=(const ColourTransform&) = delete;

  bool is_identity() const { return is_identity_; }
  // `pixels` pixels of colour samples in [0, 1] (kCmyk: complemented) to RGB, clamped to [0, 1].
  void apply(const float* samples, float* rgb, int64_t pixels);

 private:
  bool keeps_colours(ColourModel model, float tolerance);

  struct State;
  std::unique_ptr<State> state_;
  bool is_identity_ = false;
};

// The profile that JPEG and WebP files are tagged with: the same bytes every time.
std::vector<std::byte> srgb_profile();

}  // namespace calotype
