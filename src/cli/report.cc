#include "cli/report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <iostream>
#include <set>

namespace calotype::cli {

std::string printable(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text;
}

void print_error(const std::string& sentence) {
  std::cout.flush();
  std::cerr << "calotype: " << printable(sentence) << std::endl;
}

void print_note(const std::string& sentence) {
  static std::set<std::string> told;
  if (told.insert(sentence).second) print_error("note: " + sentence);
}

int exit_code(const Error& error) {
  switch (error.code()) {
    case ErrorCode::kInvalidArgument:
      return kWrongUsage;
    case ErrorCode::kCancelled:
      return kInterrupted;
    default:
      return kFailed;
  }
}

void Report::line(const std::string& text) const {
  if (quiet_ || json_) return;
  (stdout_taken_ ? std::cerr : std::cout) << printable(text) << std::endl;
}

void Report::json(const Json& document, int exit_code) const {
  if (!json_ || (stdout_taken_ && exit_code != 0)) return;
  // Paths need not be UTF-8; JSON must be.
  (stdout_taken_ ? std::cerr : std::cout)
      << document.dump(2, ' ', false, Json::error_handler_t::replace) << std::endl;
}

std::string printf_string(const char* format, ...) {
  va_list values, again;
  va_start(values, format);
  va_copy(again, values);
  const int length = std::vsnprintf(nullptr, 0, format, values);
  va_end(values);
  std::string text(static_cast<size_t>(std::max(length, 0)), '\0');
  std::vsnprintf(text.data(), text.size() + 1, format, again);
  va_end(again);
  return text;
}

std::string format_bytes(int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) value /= 1024, ++unit;
  if (unit == 0) return std::to_string(bytes) + " bytes";
  return printf_string(value < 10    ? "%.2f %s"
                       : value < 100 ? "%.1f %s"
                                     : "%.0f %s",
                       value, kUnits[unit]);
}

std::string format_count(int64_t count) {
  std::string digits = std::to_string(count);
  const int first = digits.starts_with('-') ? 1 : 0;
  for (int at = static_cast<int>(digits.size()) - 3; at > first; at -= 3) {
    digits.insert(static_cast<size_t>(at), 1, ',');
  }
  return digits;
}

std::string format_flop(double flop) {
  if (flop >= 1e12) return printf_string("%.2f TFLOP", flop * 1e-12);
  if (flop >= 1e9) return printf_string("%.2f GFLOP", flop * 1e-9);
  return printf_string("%.2f MFLOP", flop * 1e-6);
}

std::string format_seconds(double seconds) {
  if (seconds < 10) return printf_string("%.3f s", seconds);
  if (seconds < 100) return printf_string("%.1f s", seconds);
  const int64_t whole = std::llround(seconds);
  return printf_string("%lld min %lld s", static_cast<long long>(whole / 60),
                       static_cast<long long>(whole % 60));
}

std::string format_size(int64_t w, int64_t h) {
  return std::to_string(w) + "x" + std::to_string(h);
}

std::string join(const std::vector<std::string>& parts, const std::string& between) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : between) + part;
  return text;
}

Json text_or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }

Shape nchw(const Shape& nhwc) {
  return nhwc.size() == 4 ? Shape{nhwc[0], nhwc[3], nhwc[1], nhwc[2]} : nhwc;
}

}  // namespace calotype::cli
