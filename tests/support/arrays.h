// Arrays of float64 as goldens and the tests in Python hold them.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "calotype/model_source.h"
#include "calotype/tensor.h"
#include "core/file.h"
#include "weights/safetensors.h"

namespace calotype::test {

struct Array {
  Shape shape;
  std::vector<double> values;
};

Array array_of(const TensorView& view);
Array nchw_to_nhwc(const Array& nchw);
Array nhwc_to_nchw(const Array& nhwc);
Tensor rounded(const Array& array);  // to float32

// A safetensors file that stays mapped.
class ArrayFile {
 public:
  explicit ArrayFile(const std::string& path);
  bool contains(const std::string& name) const { return file_.tensors.contains(name); }
  Array array(const std::string& name) const;  // throws std::out_of_range
  const SafetensorsFile& file() const { return file_; }
  // The model of the metadata `config` and the tensors `weights.NAME`. It keeps the file mapped.
  Model model() const;

 private:
  std::shared_ptr<const MappedFile> mapped_;
  SafetensorsFile file_;
};

}  // namespace calotype::test
