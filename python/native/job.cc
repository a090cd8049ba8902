#include "job.h"

#include <nanobind/stl/string.h>

namespace calotype::python {

Job::Job(const JobArguments& arguments) : callback_(arguments.progress) {
  options_.backend = arguments.backend == "reference" ? Backend::kReference : Backend::kCpu;
  options_.precision = arguments.precision == "fast"   ? Precision::kFast
                       : arguments.precision == "bf16" ? Precision::kBF16
                                                       : Precision::kF32;
  options_.threads = arguments.threads;
  options_.memory = arguments.memory;
  options_.progress = [this](const Progress& progress) { return on_progress(progress); };
}

bool Job::on_progress(const Progress& progress) {
  const auto now = std::chrono::steady_clock::now();
  if (callback_.is_none() && now - looked_ < kSignalInterval) return true;
  looked_ = now;
  const nb::gil_scoped_acquire acquire;
  try {
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (callback_.is_none()) return true;
    const nb::object answer = callback_(progress.fraction, std::string(progress.layer));
    return !answer.is(nb::bool_(false));
  } catch (...) {
    raised_ = std::current_exception();
    return false;
  }
}

}  // namespace calotype::python
