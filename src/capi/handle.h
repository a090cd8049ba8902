// What the files of the C interface share: the model behind the handle, errors, options.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "calotype/autoencoder_kl.h"
#include "calotype/calotype.h"
#include "core/cat.h"

struct calotype_model {
  explicit calotype_model(calotype::AutoencoderKL autoencoder)
      : vae(std::move(autoencoder)), config_json(vae.config().to_json()) {}

  calotype::AutoencoderKL vae;
  std::string config_json;
};

namespace calotype::capi {

// Stores the sentence of the exception that is being handled; its status.
calotype_status failed() noexcept;

// Runs `job`; what it throws becomes a status and this thread's last error.
template <class Job>
calotype_status guarded(const Job& job) noexcept {
  try {
    job();
    return CALOTYPE_OK;
  } catch (...) {
    return failed();
  }
}

// Where the last sentence of calotype_last_error lies: no allocation may fail while an error is
// told.
const char* last_error() noexcept;

template <class T>
T& need(T* pointer, const char* what) {
  if (pointer == nullptr) fail(ErrorCode::kInvalidArgument, what, " is NULL");
  return *pointer;
}

inline const AutoencoderKL& need_model(const calotype_model* model) {
  return need(model, "the model").vae;
}

void check_struct_size(size_t struct_size, const char* what);

// The caller's struct, as far as both know it; `defaults` for the rest, and where there is none.
template <class T>
T read_struct(const T* given, T defaults, const char* what) {
  if (given == nullptr) return defaults;
  check_struct_size(given->struct_size, what);
  std::memcpy(&defaults, given, std::min(given->struct_size, sizeof(T)));
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (size_t i = sizeof(T); i < given->struct_size; i++) {
    if (bytes[i] == 0) continue;
    fail(ErrorCode::kUnsupported, what, " is of a newer calotype.h (", given->struct_size,
         " bytes, this library knows ", sizeof(T), ") and sets a field that this library lacks");
  }
  return defaults;
}

// Fills the caller's struct as far as both know it.
template <class T>
void write_struct(T value, T* out, const char* what) {
  check_struct_size(need(out, what).struct_size, what);
  value.struct_size = out->struct_size;
  std::memcpy(out, &value, std::min(value.struct_size, sizeof(T)));
}

LoadOptions load_options(const calotype_load_options* options);

// A job's options with everything checked. `progress` calls the caller's.
struct Job {
  RunOptions run;
  bool unscaled = false, sample = false;
  uint64_t seed = 0;
  bool latents_nchw = true, image_nchw = false;
};
Job job_options(const calotype_run_options* options);

// [batch, height, width, channels], every side positive.
Shape shape_of(const calotype_shape& shape, const char* what);

}  // namespace calotype::capi
