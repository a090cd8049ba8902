// How a job runs on behalf of Python: without the GIL, stopping for signals and for the callback.
#pragma once

#include <nanobind/nanobind.h>

#include <chrono>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "calotype/autoencoder_kl.h"

namespace calotype::python {

namespace nb = nanobind;

// What the Python side has checked and named.
struct JobArguments {
  std::string backend, precision;
  int device = 0;
  int threads = 0;
  int64_t memory = 0;
  std::string scratch;
  nb::object progress;  // callable(fraction, layer) or None; False cancels
};

class Job {
 public:
  explicit Job(const JobArguments& arguments);

  // `work(options)` with the GIL released. What a signal handler or the callback raises comes out
  // here, after the library has wound up its threads.
  template <class Work>
  auto run(const Work& work) {
    try {
      auto result = [&] {
        const nb::gil_scoped_release release;
        return work(std::as_const(options_));
      }();
      warn();
      return result;
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kCancelled && raised_) std::rethrow_exception(raised_);
      throw;
    }
  }

 private:
  bool on_progress(const Progress& progress);
  void warn() const;  // a RuntimeWarning of each notice

  // A signal is looked for this often: taking the GIL may cost a switch interval (5 ms) where other
  // threads of Python are busy, and an interrupt is to be felt within 100 ms.
  static constexpr std::chrono::milliseconds kSignalInterval{25};

  RunOptions options_;
  nb::object callback_;
  std::vector<std::string> notices_;
  std::exception_ptr raised_;
  std::chrono::steady_clock::time_point looked_ = std::chrono::steady_clock::now();
};

}  // namespace calotype::python
