#include "weights/embedded.h"

#ifdef CALOTYPE_EMBEDDED_MODEL
// Defined in embedded.S.
extern "C" {
__attribute__((visibility("hidden"))) extern const char calotype_embedded_config[];
__attribute__((visibility("hidden"))) extern const char calotype_embedded_config_end[];
__attribute__((visibility("hidden"))) extern const std::byte calotype_embedded_weights[];
__attribute__((visibility("hidden"))) extern const std::byte calotype_embedded_weights_end[];
}
#endif

namespace calotype {

std::optional<EmbeddedModel> embedded_model() {
#ifdef CALOTYPE_EMBEDDED_MODEL
  return EmbeddedModel{{calotype_embedded_config, calotype_embedded_config_end},
                       {calotype_embedded_weights, calotype_embedded_weights_end}};
#else
  return std::nullopt;
#endif
}

}  // namespace calotype
