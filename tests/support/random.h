// Seeded random numbers, tensors and files for tests. The seed is CALOTYPE_TEST_SEED, else fixed;
// tests print it on failure.
#pragma once

#include <cstdint>
#include <filesystem>
#include <random>
#include <string>

#include "calotype/tensor.h"

namespace calotype::test {

// The seed of this run: the environment's CALOTYPE_TEST_SEED, else `fallback`.
uint64_t test_seed(uint64_t fallback);

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t integer(int64_t low, int64_t high);  // both included
  double uniform(double low = 0, double high = 1);
  double normal();
  template <class T>
  const T& pick(const std::vector<T>& of) {
    return of[static_cast<size_t>(integer(0, static_cast<int64_t>(of.size()) - 1))];
  }
  Tensor normal_tensor(Shape shape, double stddev = 1, double mean = 0);

 private:
  std::mt19937_64 engine_;
};

// A folder that is removed, with all that is in it, when it goes out of scope.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string path(const std::string& name = "") const;  // absolute

 private:
  std::filesystem::path path_;
};

}  // namespace calotype::test
