// The files of data/, which make_data.py makes.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "calotype/error.h"
#include "calotype/image.h"
#include "core/file.h"

namespace calotype::test {

inline std::string data_path(const std::string& name) {
  return std::string(CALOTYPE_IMAGE_TEST_DATA) + "/" + name;
}

inline std::vector<std::byte> data_file(const std::string& name) {
  return read_file(data_path(name));
}

// Largest difference, in steps of 8 bits; infinite where the shapes differ.
inline double steps_between(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape()) return INFINITY;
  double worst = 0;
  for (int64_t i = 0; i < a.size(); i++) {
    worst = std::max(worst, std::abs(static_cast<double>(a.data()[i]) - b.data()[i]));
  }
  return worst * 127.5;
}

// A picture of smooth colours, different in every pixel row and column.
inline Tensor gradient(int64_t height, int64_t width) {
  Tensor image({1, height, width, 3});
  float* out = image.data();
  for (int64_t y = 0; y < height; y++) {
    for (int64_t x = 0; x < width; x++) {
      *out++ = -1 + 2 * static_cast<float>(x) / static_cast<float>(width);
      *out++ = -1 + 2 * static_cast<float>(y) / static_cast<float>(height);
      *out++ = std::sin(static_cast<float>(x + 2 * y) / 9);
    }
  }
  return image;
}

// The sentence and code of the Error that `call` throws; fails the test where it throws none.
template <class Call>
Error error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::kInternal, "nothing was thrown");
}

}  // namespace calotype::test
