// What the program says: reports on standard output (or standard error where output files go to
// standard output), errors as one line each.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "calotype/error.h"
#include "calotype/tensor.h"

namespace calotype::cli {

using Json = nlohmann::ordered_json;

// `text` with control characters blanked: a name from a file must neither break a line nor steer
// the terminal.
std::string printable(std::string text);

// "calotype: SENTENCE" on standard error: one line, whatever the sentence holds.
void print_error(const std::string& sentence);

// "calotype: note: SENTENCE" on standard error, each sentence once.
void print_note(const std::string& sentence);

constexpr int kFailed = 1, kWrongUsage = 2, kInterrupted = 130;
// What there is to say where an allocation failed.
constexpr const char* kOutOfMemory =
    "there is not enough memory for this job; say a smaller --memory, take a smaller picture, or "
    "raise the limit (ulimit -v)";
int exit_code(const Error& error);

class Report {
 public:
  // `stdout_taken`: an output file goes to standard output.
  Report(bool quiet, bool json, bool stdout_taken = false)
      : quiet_(quiet), json_(json), stdout_taken_(stdout_taken) {}

  bool quiet() const { return quiet_; }
  bool wants_json() const { return json_; }
  // For people: nothing with --quiet or --json.
  void line(const std::string& text) const;
  // For programs: nothing without --json. On standard error, where an error came before it, nothing
  // either: what stands there is JSON or a sentence.
  void json(const Json& document, int exit_code = 0) const;

 private:
  bool quiet_, json_, stdout_taken_;
};

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

std::string printf_string(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string format_bytes(int64_t bytes);        // "1.52 GiB"
std::string format_count(int64_t count);        // "49,545,475"
std::string format_flop(double flop);           // "10.47 TFLOP"
std::string format_seconds(double seconds);     // "0.123 s", "17.5 s", "2 min 3 s"
std::string format_size(int64_t w, int64_t h);  // "1024x768"
std::string join(const std::vector<std::string>& parts, const std::string& between);
// JSON's null for an empty text.
Json text_or_null(const std::string& text);
// NHWC [B, h, w, C] as the ecosystem writes it: [B, C, h, w].
Shape nchw(const Shape& nhwc);

}  // namespace calotype::cli
