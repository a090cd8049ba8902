// Finds and opens the plugin libcalotype_cuda.so. Part of the library itself; needs no CUDA.
#pragma once

#include <string>
#include <vector>

#include "ops/device_backend.h"

namespace calotype {

// What the library and its plugin must agree on: version, compiler, and the headers that both were
// built from.
std::string cuda_build_id();

// Where the plugin is looked for, in this order: $CALOTYPE_CUDA_PLUGIN alone where it is set;
// beside libcalotype (or the program, where it is linked in); in the folder that it was installed
// to; where the system looks for libraries.
std::vector<std::string> cuda_plugin_paths();

// The backend, opened once. Throws Error(kNotFound) with one sentence that says what is missing:
// the plugin, the driver, a device, or that the plugin is of another build.
DeviceBackend& cuda_backend();

// Null instead of an Error; `reason`, where given, is its sentence.
DeviceBackend* cuda_backend_or_null(std::string* reason = nullptr);

// Whether the driver of the system shows a GPU, whatever else is missing.
bool sees_nvidia_gpu();

// Opens one plugin file, for tests.
std::unique_ptr<DeviceBackend> open_cuda_plugin(const std::string& path);

}  // namespace calotype
