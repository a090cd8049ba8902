#include "image/colour.h"

#include <lcms2.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/cat.h"

namespace calotype {
namespace {

struct DeleteContext {
  void operator()(cmsContext context) const noexcept { cmsDeleteContext(context); }
};
struct CloseProfile {
  void operator()(cmsHPROFILE profile) const noexcept { cmsCloseProfile(profile); }
};
struct DeleteTransform {
  void operator()(cmsHTRANSFORM transform) const noexcept { cmsDeleteTransform(transform); }
};
using Context = std::unique_ptr<std::remove_pointer_t<cmsContext>, DeleteContext>;
using Profile = std::unique_ptr<void, CloseProfile>;
using Transform = std::unique_ptr<void, DeleteTransform>;

// Little CMS reports through a callback; the first report says most.
void keep_first_message(cmsContext context, cmsUInt32Number, const char* text) {
  auto* message = static_cast<std::string*>(cmsGetContextUserData(context));
  try {
    if (message != nullptr && message->empty()) *message = text;
  } catch (...) {  // a message that could not be kept is no reason to unwind through C
  }
}

const char* model_name(ColourModel model) {
  switch (model) {
    case ColourModel::kGrey:
      return "grey";
    case ColourModel::kRgb:
      return "RGB";
    case ColourModel::kCmyk:
      return "CMYK";
  }
  return "unknown";
}

// The data colour space (ICC.1:2010, 7.2.6), from the bytes: lcms2.h's enumeration does not have
// every value that a file may hold.
uint32_t colour_space(std::span<const std::byte> icc) {
  uint32_t signature = 0;
  for (const std::byte b : icc.subspan(16, 4)) {
    signature = signature << 8 | std::to_integer<uint32_t>(b);
  }
  return signature;
}

std::string signature_text(uint32_t signature) {
  std::string text;
  for (int shift = 24; shift >= 0; shift -= 8) {
    const char c = static_cast<char>((signature >> shift) & 0xff);
    if (c > ' ' && c <= '~') text += c;
  }
  return text.empty() ? "an unknown colour space" : text;
}

// Also catches NaN, which compares false.
float clamp01(float v) { return v > 0 ? std::min(v, 1.0f) : 0.0f; }

}  // namespace

struct ColourTransform::State {
  std::string message;
  Context context;
  Transform transform;
  bool expand_grey = false;  // grey pixels under an RGB profile
  bool cmyk = false;
  std::vector<float> row;
};

ColourTransform::ColourTransform(std::span<const std::byte> icc, ColourModel model, int bits,
                                 const std::string& file)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  const auto refuse = [&](const std::string& why) {
    fail(ErrorCode::kInvalidData, file, ": has an embedded ICC profile that cannot be used: ", why,
         "; convert the picture to sRGB, or remove the profile");
  };
  s.context.reset(cmsCreateContext(nullptr, &s.message));
  if (s.context == nullptr) throw std::bad_alloc();
  cmsSetLogErrorHandlerTHR(s.context.get(), keep_first_message);

  const Profile profile(cmsOpenProfileFromMemTHR(s.context.get(), icc.data(),
                                                 static_cast<cmsUInt32Number>(icc.size())));
  if (profile == nullptr) refuse(s.message.empty() ? "it is damaged" : s.message);
  const uint32_t space = colour_space(icc);
  cmsUInt32Number format = 0;
  if (space == cmsSigGrayData && model == ColourModel::kGrey) {
    format = TYPE_GRAY_FLT;
  } else if (space == cmsSigRgbData && model != ColourModel::kCmyk) {
    format = TYPE_RGB_FLT;
    s.expand_grey = model == ColourModel::kGrey;
  } else if (space == cmsSigCmykData && model == ColourModel::kCmyk) {
    format = TYPE_CMYK_FLT;
    s.cmyk = true;
  } else {
    refuse(cat("it is for ", signature_text(space), " and the pixels are ", model_name(model)));
  }

  const Profile srgb(cmsCreate_sRGBProfileTHR(s.context.get()));
  // float32 on both sides: with 8 or 16 bits Little CMS would go through a coarse table.
  s.transform.reset(cmsCreateTransformTHR(s.context.get(), profile.get(), format, srgb.get(),
                                          TYPE_RGB_FLT, INTENT_PERCEPTUAL,
                                          cmsFLAGS_NOCACHE | cmsFLAGS_NOOPTIMIZE));
  if (s.transform == nullptr) refuse(s.message.empty() ? "it is incomplete" : s.message);

  is_identity_ = !s.cmyk && keeps_colours(model, 0.25f / static_cast<float>((1 << bits) - 1));
}

// Over 17 levels a channel: enough to tell sRGB from every profile in use.
bool ColourTransform::keeps_colours(ColourModel model, float tolerance) {
  constexpr int kLevels = 17;
  const auto level = [](int i) { return static_cast<float>(i % kLevels) / (kLevels - 1); };
  const bool grey = model == ColourModel::kGrey;
  const int colours = grey ? kLevels : kLevels * kLevels * kLevels;
  std::vector<float> in, expected, out(static_cast<size_t>(3 * colours));
  for (int i = 0; i < colours; i++) {
    for (const int divisor : {1, kLevels, kLevels * kLevels}) {
      expected.push_back(level(grey ? i : i / divisor));
    }
    if (grey) in.push_back(level(i));
  }
  apply(grey ? in.data() : expected.data(), out.data(), colours);
  return std::equal(out.begin(), out.end(), expected.begin(),
                    [&](float a, float b) { return std::abs(a - b) <= tolerance; });
}

ColourTransform::~ColourTransform() = default;

void ColourTransform::apply(const float* samples, float* rgb, int64_t pixels) {
  State& s = *state_;
  const size_t n = static_cast<size_t>(pixels);
  if (s.expand_grey) {
    s.row.resize(3 * n);
    for (size_t i = 0; i < 3 * n; i++) s.row[i] = samples[i / 3];
    samples = s.row.data();
  } else if (s.cmyk) {
    s.row.resize(4 * n);  // Little CMS counts ink in percent
    for (size_t i = 0; i < 4 * n; i++) s.row[i] = 100 * (1 - samples[i]);
    samples = s.row.data();
  }
  cmsDoTransform(s.transform.get(), samples, rgb, static_cast<cmsUInt32Number>(n));
  for (size_t i = 0; i < 3 * n; i++) rgb[i] = clamp01(rgb[i]);
}

std::vector<std::byte> srgb_profile() {
  const Context context(cmsCreateContext(nullptr, nullptr));
  if (context == nullptr) throw std::bad_alloc();
  const Profile profile(cmsCreate_sRGBProfileTHR(context.get()));
  cmsUInt32Number size = 0;
  if (profile == nullptr || !cmsSaveProfileToMem(profile.get(), nullptr, &size)) {
    fail(ErrorCode::kInternal, "Little CMS cannot make an sRGB profile");
  }
  std::vector<std::byte> bytes(size);
  if (!cmsSaveProfileToMem(profile.get(), bytes.data(), &size)) {
    fail(ErrorCode::kInternal, "Little CMS cannot write an sRGB profile");
  }
  // The date of creation, six big-endian 16-bit numbers at 24 (ICC.1:2010, 7.2.8): that of
  // IEC 61966-2-1, so that the same picture gives the same file.
  constexpr unsigned char kDate[12] = {1999 >> 8, 1999 & 0xff, 0, 10, 0, 18};
  std::memcpy(bytes.data() + 24, kDate, sizeof kDate);
  return bytes;
}

}  // namespace calotype
