// How far a job is: a bar on a terminal, a line now and then in a log, nothing with --quiet.
#pragma once

#include <string>
#include <string_view>

#include "calotype/autoencoder_kl.h"
#include "cli/report.h"

namespace calotype::cli {

class ProgressMeter {
 public:
  // `label`: "decode photo.safetensors".
  ProgressMeter(std::string label, bool quiet);
  ~ProgressMeter();  // takes the bar off the screen
  ProgressMeter(const ProgressMeter&) = delete;
  ProgressMeter& operator=(const ProgressMeter&) = delete;

  void update(double fraction);
  // For RunOptions::progress: the job's 0 to 1 are `from` to `to` of the meter; cancels when a
  // signal has come. The meter must outlive it.
  ProgressCallback part(double from, double to);

 private:
  void draw_bar(double fraction, double seconds);
  void print_line(double fraction, double seconds);

  std::string label_;
  bool shown_, terminal_;
  bool drawn_ = false;
  Stopwatch watch_;
  double last_seconds_ = 0, last_fraction_ = 0;  // of what was shown last
};

}  // namespace calotype::cli
