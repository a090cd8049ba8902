#include "cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "cli/interrupt.h"

namespace calotype::cli {
namespace {

constexpr double kBarSeconds = 0.1;    // between two bars; a job shorter than this shows none
constexpr double kLineSeconds = 3;     // at least, between two lines of a log
constexpr double kLineFraction = 0.1;  // and this much progress

int terminal_columns() {
  winsize size{};
  const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

std::string whole_seconds(double seconds) {
  return seconds < 99 ? printf_string("%.0f s", seconds) : format_seconds(seconds);
}

std::string remaining(double fraction, double seconds) {
  if (fraction < 0.02) return "";
  return ", " + whole_seconds(seconds * (1 - fraction) / fraction) + " left";
}

}  // namespace

ProgressMeter::ProgressMeter(std::string label, bool quiet)
    : label_(printable(std::move(label))),
      shown_(!quiet),
      terminal_(::isatty(STDERR_FILENO) == 1) {}

ProgressMeter::~ProgressMeter() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void ProgressMeter::update(double fraction) {
  if (!shown_) return;
  const double seconds = watch_.seconds();
  if (terminal_) {
    if (seconds - last_seconds_ < kBarSeconds) return;
    draw_bar(fraction, seconds);
  } else {
    if (seconds - last_seconds_ < kLineSeconds || fraction - last_fraction_ < kLineFraction) return;
    print_line(fraction, seconds);
  }
  last_seconds_ = seconds;
  last_fraction_ = fraction;
}

ProgressCallback ProgressMeter::part(double from, double to) {
  return [this, from, to](const Progress& progress) {
    update(from + (to - from) * progress.fraction);
    return !interrupted();
  };
}

void ProgressMeter::draw_bar(double fraction, double seconds) {
  constexpr int kCells = 24;
  const int columns = terminal_columns();
  const int full = std::clamp(static_cast<int>(fraction * kCells), 0, kCells);
  const std::string figures =
      printf_string(" %3.0f %%%s", 100 * fraction, remaining(fraction, seconds).c_str());
  const std::string bar = " [" + std::string(static_cast<size_t>(full), '#') +
                          std::string(static_cast<size_t>(kCells - full), '-') + "]";
  // The last column stays free: a terminal may wrap there. The label gives way first.
  const size_t room = static_cast<size_t>(std::max(columns - 1, 10));
  const size_t rest = bar.size() + figures.size();
  std::string text = label_.substr(0, room > rest ? room - rest : 0) + bar + figures;
  text.resize(std::min(text.size(), room));
  std::fprintf(stderr, "\r%s\033[K", text.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

void ProgressMeter::print_line(double fraction, double seconds) {
  std::fprintf(stderr, "calotype: %s: %.0f %% after %s%s\n", label_.c_str(), 100 * fraction,
               whole_seconds(seconds).c_str(), remaining(fraction, seconds).c_str());
}

}  // namespace calotype::cli
