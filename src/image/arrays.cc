#include "image/arrays.h"

#include <cmath>

#include "core/cat.h"
#include "weights/safetensors.h"

namespace calotype {

Tensor image_of_array(const TensorView& array, const std::string& file) {
  const bool is_float = array.dtype == DType::kF64 || array.dtype == DType::kF32 ||
                        array.dtype == DType::kF16 || array.dtype == DType::kBF16;
  if (!is_float) {
    fail(ErrorCode::kInvalidData, file, ": holds a picture of ", dtype_name(array.dtype),
         "; floats in [-1, 1] are expected");
  }
  Shape shape = array.shape;
  if (shape.size() == 3) shape.insert(shape.begin(), 1);
  if (shape.size() != 4 || shape[3] != 3) {
    fail(ErrorCode::kInvalidData, file, ": holds an array of shape ", shape_string(array.shape),
         "; a picture is [B, H, W, 3] or [H, W, 3]");
  }
  if (array.size() == 0) {
    fail(ErrorCode::kInvalidData, file, ": holds a picture of size 0, ", shape_string(array.shape));
  }
  Tensor image(shape);
  copy_elements(array, 0, image.values());
  for (int64_t i = 0; i < image.size(); i++) {
    if (!std::isfinite(image.data()[i])) {
      fail(ErrorCode::kInvalidData, file, ": holds a picture with ", image.data()[i],
           " at element ", i, "; every value must be finite");
    }
  }
  return image;
}

Tensor image_of_safetensors(std::span<const std::byte> bytes, const std::string& file) {
  const SafetensorsFile parsed = parse_safetensors(bytes, file);
  for (const auto& [name, dtype] : parsed.unreadable) {
    fail(ErrorCode::kInvalidData, file, ": holds ", name, " of ", dtype,
         "; the one tensor `image` of floats is expected");
  }
  for (const auto& [name, view] : parsed.tensors) {
    if (name != "image") {
      fail(ErrorCode::kInvalidData, file, ": holds a tensor ", name,
           "; the one tensor `image` is expected of a picture");
    }
  }
  const auto found = parsed.tensors.find("image");
  if (found == parsed.tensors.end()) {
    fail(ErrorCode::kInvalidData, file, ": holds no tensor; `image` is expected of a picture");
  }
  return image_of_array(found->second, file);
}

}  // namespace calotype
