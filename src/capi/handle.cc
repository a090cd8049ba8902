#include "capi/handle.h"

#include <algorithm>
#include <new>

namespace calotype::capi {
namespace {

// Longer sentences are cut: file names are, at worst, a few kilobytes.
thread_local char last_sentence[4096] = "";

calotype_status tell(calotype_status status, const char* sentence) noexcept {
  std::strncpy(last_sentence, sentence, sizeof last_sentence - 1);
  return status;
}

calotype_status status_of(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return CALOTYPE_INVALID_ARGUMENT;
    case ErrorCode::kNotFound:
      return CALOTYPE_NOT_FOUND;
    case ErrorCode::kInvalidData:
      return CALOTYPE_INVALID_DATA;
    case ErrorCode::kUnsupported:
      return CALOTYPE_UNSUPPORTED;
    case ErrorCode::kIo:
      return CALOTYPE_IO;
    case ErrorCode::kOutOfMemory:
      return CALOTYPE_OUT_OF_MEMORY;
    case ErrorCode::kCancelled:
      return CALOTYPE_CANCELLED;
    case ErrorCode::kInternal:
      break;
  }
  return CALOTYPE_INTERNAL;
}

bool is_nchw(int32_t layout, bool by_default, const char* field) {
  switch (layout) {
    case CALOTYPE_LAYOUT_DEFAULT:
      return by_default;
    case CALOTYPE_NCHW:
      return true;
    case CALOTYPE_NHWC:
      return false;
    default:
      fail(ErrorCode::kInvalidArgument, field, " is ", layout,
           "; it is one of CALOTYPE_LAYOUT_DEFAULT, CALOTYPE_NCHW, CALOTYPE_NHWC");
  }
}

Backend backend_of(int32_t backend) {
  switch (backend) {
    case CALOTYPE_BACKEND_AUTO:
      return Backend::kAuto;
    case CALOTYPE_CPU:
      return Backend::kCpu;
    case CALOTYPE_CUDA:
      return Backend::kCuda;
    case CALOTYPE_REFERENCE:
      return Backend::kReference;
    default:
      fail(ErrorCode::kInvalidArgument, "backend is ", backend,
           "; it is one of CALOTYPE_BACKEND_AUTO, CALOTYPE_CPU, CALOTYPE_CUDA, "
           "CALOTYPE_REFERENCE");
  }
}

Precision precision_of(int32_t precision) {
  switch (precision) {
    case CALOTYPE_PRECISION_AUTO:
      return Precision::kAuto;
    case CALOTYPE_F32:
      return Precision::kF32;
    case CALOTYPE_FAST:
      return Precision::kFast;
    case CALOTYPE_BF16:
      return Precision::kBF16;
    case CALOTYPE_F16:
      return Precision::kF16;
    case CALOTYPE_FP8:
      return Precision::kFP8;
    default:
      fail(ErrorCode::kInvalidArgument, "precision is ", precision,
           "; it is one of CALOTYPE_PRECISION_AUTO, CALOTYPE_F32, CALOTYPE_FAST, CALOTYPE_BF16, "
           "CALOTYPE_F16, CALOTYPE_FP8");
  }
}

}  // namespace

const char* last_error() noexcept { return last_sentence; }

calotype_status failed() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return tell(status_of(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    return tell(CALOTYPE_OUT_OF_MEMORY, "the machine has not enough memory for this job");
  } catch (const std::exception& error) {
    return tell(CALOTYPE_INTERNAL, error.what());
  } catch (...) {
    return tell(CALOTYPE_INTERNAL, "an exception of an unknown type was thrown");
  }
}

void check_struct_size(size_t struct_size, const char* what) {
  // Far beyond what any version will have: rather memory that nobody set.
  constexpr size_t kAbsurd = 1 << 16;
  if (struct_size >= sizeof(size_t) && struct_size <= kAbsurd) return;
  fail(ErrorCode::kInvalidArgument, "struct_size of ", what, " is ", struct_size,
       "; make the struct with its _defaults() function");
}

LoadOptions load_options(const calotype_load_options* options) {
  const calotype_load_options given =
      read_struct(options, calotype_load_options_defaults(), "calotype_load_options");
  LoadOptions load;
  if (given.family != nullptr) load.family = given.family;
  load.verify = given.verify != 0;
  return load;
}

Job job_options(const calotype_run_options* options) {
  const calotype_run_options given =
      read_struct(options, calotype_run_options_defaults(), "calotype_run_options");
  Job job;
  job.run.backend = backend_of(given.backend);
  job.run.precision = precision_of(given.precision);
  if (given.threads < 0) {
    fail(ErrorCode::kInvalidArgument, "threads is ", given.threads, "; it cannot be negative");
  }
  job.run.threads = given.threads;
  if (given.memory < 0) {
    fail(ErrorCode::kInvalidArgument, "memory is ", given.memory, "; it cannot be negative");
  }
  job.run.memory = given.memory;
  job.run.device = given.device;
  if (given.scratch != nullptr) job.run.scratch = given.scratch;
  if (given.progress != nullptr) {
    job.run.progress = [callback = given.progress, user = given.user,
                        layer = std::string()](const Progress& progress) mutable {
      layer.assign(progress.layer);  // a string_view has no end that C can see
      return callback(progress.fraction, layer.c_str(), user) == 0;
    };
  }
  job.unscaled = given.unscaled != 0;
  job.sample = given.sample != 0;
  job.seed = given.seed;
  job.latents_nchw = is_nchw(given.latent_layout, true, "latent_layout");
  job.image_nchw = is_nchw(given.image_layout, false, "image_layout");
  return job;
}

Shape shape_of(const calotype_shape& shape, const char* what) {
  Shape sides = {shape.batch, shape.height, shape.width, shape.channels};
  if (std::any_of(sides.begin(), sides.end(), [](int64_t side) { return side < 1; })) {
    fail(ErrorCode::kInvalidArgument, "the shape of the ", what, " is ", shape_string(sides),
         " (batch, height, width, channels); every side must be positive");
  }
  if (element_count(sides) > (int64_t{1} << 48)) {
    fail(ErrorCode::kInvalidArgument, "the shape of the ", what, " is ", shape_string(sides),
         ", which no memory holds");
  }
  return sides;
}

}  // namespace calotype::capi
