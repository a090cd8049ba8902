// Models from weights that the program already has.
#include "weights/source.h"

namespace calotype {

Model model_from_tensors(std::map<std::string, TensorView> tensors,
                         std::optional<std::string> config_json,
                         std::vector<std::shared_ptr<const void>> storage,
                         const std::string& source, const LoadOptions& options) {
  if (!options.family.empty()) family_config(options.family);  // refuses what is no family
  Source found;
  found.container = "memory";
  found.name = found.file = found.config_file = source;
  found.tensors = std::move(tensors);
  found.config = std::move(config_json);
  found.storage = std::move(storage);
  Model model = make_model(std::move(found), options);
  model.mapped = false;  // no file would give the pages back
  return model;
}

}  // namespace calotype
