#include "support/random.h"

#include <unistd.h>

#include <cstdlib>

namespace calotype::test {

uint64_t test_seed(uint64_t fallback) {
  const char* text = std::getenv("CALOTYPE_TEST_SEED");
  return text == nullptr ? fallback : std::strtoull(text, nullptr, 10);
}

int64_t Random::integer(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(engine_);
}

double Random::uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(engine_);
}

double Random::normal() { return std::normal_distribution<double>()(engine_); }

Tensor Random::normal_tensor(Shape shape, double stddev, double mean) {
  Tensor tensor(std::move(shape));
  for (float& value : tensor.values()) value = static_cast<float>(mean + stddev * normal());
  return tensor;
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "calotype-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make a temporary folder");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryFolder::path(const std::string& name) const {
  return name.empty() ? path_.string() : (path_ / name).string();
}

}  // namespace calotype::test
