#include "model/tensor_source.h"

#include "core/cat.h"

namespace calotype {

Conv2d TensorSource::conv(const std::string& name, int64_t in, int64_t out, int64_t kernel) {
  return {tensor(name + ".weight", {out, in, kernel, kernel}), tensor(name + ".bias", {out}), in,
          out, kernel};
}

GroupNorm TensorSource::norm(const std::string& name, int64_t channels, int64_t groups) {
  if (channels % groups != 0) {
    fail(ErrorCode::kInvalidData, name, ": ", channels,
         " channels do not divide into norm_num_groups = ", groups, " groups");
  }
  return {tensor(name + ".weight", {channels}), tensor(name + ".bias", {channels}),
          static_cast<int>(groups), 1e-6};
}

TensorView ModelTensors::tensor(const std::string& name, const Shape& shape) {
  const auto found = model_.tensors.find(name);
  if (found == model_.tensors.end()) {
    fail(ErrorCode::kInvalidData, model_.source, ": the tensor ", name, " of shape ",
         shape_string(shape), ", which the config asks for, is missing");
  }
  if (found->second.shape != shape) {
    fail(ErrorCode::kInvalidData, model_.source, ": the tensor ", name, " has the shape ",
         shape_string(found->second.shape), " where the config asks for ", shape_string(shape));
  }
  if (!is_weight_dtype(found->second.dtype)) {
    fail(ErrorCode::kInvalidData, model_.source, ": the tensor ", name, " has the dtype ",
         dtype_name(found->second.dtype),
         "; weights are F32, F16, BF16, F64, F8_E4M3, F8_E5M2 or Q8_0");
  }
  used_.insert(name);
  return found->second;
}

TensorView TensorDeclarations::tensor(const std::string& name, const Shape& shape) {
  list_.emplace_back(name, shape);
  return {DType::kF32, shape, nullptr};
}

}  // namespace calotype
