#include <algorithm>
#include <array>
#include <cmath>
#include <iomanip>
#include <sstream>

#include "calotype/image.h"
#include "core/cat.h"
#include "image/font.h"

namespace calotype {
namespace {

constexpr float kPaper = 0.94f, kInk = -0.85f;  // in [-1, 1]

// Words of `text` in lines of at most `limit` characters; longer words are cut.
std::vector<std::string> wrapped(const std::string& text, size_t limit) {
  std::vector<std::string> lines;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (word.size() > limit) word = word.substr(0, limit);
    if (!lines.empty() && lines.back().size() + 1 + word.size() <= limit) {
      lines.back() += " " + word;
    } else {
      lines.push_back(word);
    }
  }
  return lines;
}

std::string quality(const Tensor& original, const Tensor& result) {
  const double decibel = psnr(original, result);
  if (std::isinf(decibel)) return "identical in 8 bits";
  std::ostringstream text;
  text << std::fixed << std::setprecision(2) << "PSNR " << decibel << " dB, SSIM "
       << std::setprecision(4) << ssim(original, result);
  return text.str();
}

// (result - original) * amplification: no difference is mid grey, 0.
Tensor amplified(const Tensor& original, const Tensor& result, double amplification) {
  Tensor difference(original.shape());
  for (int64_t i = 0; i < difference.size(); i++) {
    const double d = (static_cast<double>(result.data()[i]) - original.data()[i]) * amplification;
    difference.data()[i] = static_cast<float>(std::clamp(d, -1.0, 1.0));
  }
  return difference;
}

void paste(const Tensor& picture, Tensor& canvas, int64_t x, int64_t y) {
  const int64_t row = picture.dim(2) * 3;
  for (int64_t j = 0; j < picture.dim(1); j++) {
    std::copy_n(picture.data() + j * row, row, canvas.data() + ((y + j) * canvas.dim(2) + x) * 3);
  }
}

// About 42 characters a line under a picture of any size; narrow pictures stand in wider cells.
struct Layout {
  explicit Layout(int64_t width)
      : scale(std::max<int64_t>(1, width / 256)),
        cell(std::max<int64_t>(width, 25 * kFontAdvance)),
        margin(8 * scale),
        line(kFontLine * scale) {}

  int64_t height_of(int64_t picture, int64_t lines) const {
    return picture + 3 * margin + lines * line;
  }
  int64_t width() const { return 3 * cell + 4 * margin; }

  int64_t scale, cell, margin, line;
};

}  // namespace

std::pair<int64_t, int64_t> comparison_size(int64_t height, int64_t width) {
  const Layout layout(width);
  return {layout.height_of(height, 1), layout.width()};
}

Tensor comparison(const Tensor& original, const Tensor& result, double amplification,
                  const std::string& captions_prefix) {
  if (original.shape() != result.shape() || original.shape().size() != 4 || original.dim(0) != 1 ||
      original.dim(3) != 3 || original.size() == 0) {
    fail(ErrorCode::kInvalidArgument, "pictures of shapes ", shape_string(original.shape()),
         " and ", shape_string(result.shape()),
         " cannot be compared; both must be [1, H, W, 3], the same");
  }
  const int64_t height = original.dim(1), width = original.dim(2);
  const Tensor difference = amplified(original, result, amplification);
  const std::array<const Tensor*, 3> pictures = {&original, &result, &difference};

  const Layout layout(width);
  const auto [scale, cell, margin, line] = layout;
  const size_t limit = static_cast<size_t>(cell / (kFontAdvance * scale));
  const std::array<std::vector<std::string>, 3> captions = {
      wrapped(captions_prefix + " original", limit),
      wrapped(captions_prefix + " result: " + quality(original, result), limit),
      wrapped(cat(captions_prefix, " difference x ", amplification, " around grey"), limit)};
  size_t lines = 0;
  for (const auto& caption : captions) lines = std::max(lines, caption.size());

  Tensor canvas({1, layout.height_of(height, static_cast<int64_t>(lines)), layout.width(), 3});
  std::fill(canvas.values().begin(), canvas.values().end(), kPaper);
  for (size_t i = 0; i < pictures.size(); i++) {
    const int64_t left = margin + static_cast<int64_t>(i) * (cell + margin);
    paste(*pictures[i], canvas, left + (cell - width) / 2, margin);
    int64_t y = height + 2 * margin;
    for (const std::string& text : captions[i]) {
      draw_text(canvas, text, left, y, scale, kInk);
      y += line;
    }
  }
  return canvas;
}

}  // namespace calotype
