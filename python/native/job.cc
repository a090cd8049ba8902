#include "job.h"

#include <nanobind/stl/string.h>

namespace calotype::python {
namespace {

// The names have been checked.
Backend backend_of(const std::string& name) {
  if (name == "cpu") return Backend::kCpu;
  if (name == "cuda") return Backend::kCuda;
  return name == "reference" ? Backend::kReference : Backend::kAuto;
}

Precision precision_of(const std::string& name) {
  if (name == "f32") return Precision::kF32;
  if (name == "fast") return Precision::kFast;
  if (name == "bf16") return Precision::kBF16;
  if (name == "f16") return Precision::kF16;
  return name == "fp8" ? Precision::kFP8 : Precision::kAuto;
}

}  // namespace

Job::Job(const JobArguments& arguments) : callback_(arguments.progress) {
  options_.backend = backend_of(arguments.backend);
  options_.precision = precision_of(arguments.precision);
  options_.device = arguments.device;
  options_.threads = arguments.threads;
  options_.memory = arguments.memory;
  options_.scratch = arguments.scratch;
  options_.notice = [this](const std::string& sentence) { notices_.push_back(sentence); };
  options_.progress = [this](const Progress& progress) { return on_progress(progress); };
}

void Job::warn() const {
  for (const std::string& notice : notices_) {
    // 2: who called the package.
    if (PyErr_WarnEx(PyExc_RuntimeWarning, notice.c_str(), 2) != 0) throw nb::python_error();
  }
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
