// Where the network's blocks get their weights by name, with the shape they expect.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "calotype/model_source.h"
#include "ops/graph.h"

namespace calotype {

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual TensorView tensor(const std::string& name, const Shape& shape) = 0;

  // `name` without ".weight" and ".bias".
  Conv2d conv(const std::string& name, int64_t in, int64_t out, int64_t kernel);
  GroupNorm norm(const std::string& name, int64_t channels, int64_t groups);
};

// The tensors of a loaded model. Missing ones and wrong shapes are refused by name; what was asked
// for is remembered.
class ModelTensors final : public TensorSource {
 public:
  explicit ModelTensors(const Model& model) : model_(model) {}
  TensorView tensor(const std::string& name, const Shape& shape) override;
  const std::set<std::string>& used() const { return used_; }

 private:
  const Model& model_;
  std::set<std::string> used_;
};

// Records what a network asks for; the views hold no data.
class TensorDeclarations final : public TensorSource {
 public:
  TensorView tensor(const std::string& name, const Shape& shape) override;
  const std::vector<std::pair<std::string, Shape>>& list() const { return list_; }

 private:
  std::vector<std::pair<std::string, Shape>> list_;
};

}  // namespace calotype
