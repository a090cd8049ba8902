#include "support/arrays.h"

#include <stdexcept>

namespace calotype::test {
namespace {

// [n][rows][columns] -> [n][columns][rows]
std::vector<double> transposed(const std::vector<double>& values, int64_t n, int64_t rows,
                               int64_t columns) {
  std::vector<double> result(values.size());
  for (int64_t b = 0; b < n; b++) {
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t c = 0; c < columns; c++) {
        result[static_cast<size_t>((b * columns + c) * rows + r)] =
            values[static_cast<size_t>((b * rows + r) * columns + c)];
      }
    }
  }
  return result;
}

}  // namespace

Array array_of(const TensorView& view) {
  Array array{view.shape, std::vector<double>(static_cast<size_t>(view.size()))};
  copy_elements(view, 0, std::span<double>(array.values));
  return array;
}

Array nchw_to_nhwc(const Array& nchw) {
  const Shape& s = nchw.shape;
  return {{s.at(0), s.at(2), s.at(3), s.at(1)}, transposed(nchw.values, s[0], s[1], s[2] * s[3])};
}

Array nhwc_to_nchw(const Array& nhwc) {
  const Shape& s = nhwc.shape;
  return {{s.at(0), s.at(3), s.at(1), s.at(2)}, transposed(nhwc.values, s[0], s[1] * s[2], s[3])};
}

Tensor rounded(const Array& array) {
  const std::vector<float> values(array.values.begin(), array.values.end());
  return Tensor(array.shape, values);
}

ArrayFile::ArrayFile(const std::string& path)
    : mapped_(MappedFile::open(path)), file_(parse_safetensors(mapped_->bytes(), path)) {}

Array ArrayFile::array(const std::string& name) const { return array_of(file_.tensors.at(name)); }

Model ArrayFile::model() const {
  const std::string prefix = "weights.";
  Model model;
  model.config = AutoencoderKLConfig::from_json(file_.metadata.at("config"), mapped_->path());
  model.source = mapped_->path();
  model.storage.push_back(mapped_);
  for (const auto& [name, view] : file_.tensors) {
    if (name.starts_with(prefix)) model.tensors[name.substr(prefix.size())] = view;
  }
  return model;
}

}  // namespace calotype::test
