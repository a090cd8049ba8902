// The C interface: versions, errors, models.
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "calotype/version.h"
#include "capi/handle.h"

namespace calotype::capi {
namespace {

DType dtype_of(const char* name, const std::string& tensor) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); i++) {
    const auto dtype = static_cast<DType>(i);
    if (dtype_name(dtype) == name) return dtype;
  }
  fail(ErrorCode::kUnsupported, "the tensor ", tensor, " has the dtype ", name,
       ", which Calotype does not know");
}

TensorView view_of(const calotype_tensor& tensor, const std::string& name) {
  constexpr int32_t kMaxRank = 8;
  TensorView view;
  view.dtype = dtype_of(&need(tensor.dtype, "the dtype of a tensor"), name);
  if (tensor.rank < 0 || tensor.rank > kMaxRank) {
    fail(ErrorCode::kInvalidArgument, "the tensor ", name, " has the rank ", tensor.rank);
  }
  if (tensor.rank > 0) {
    const int64_t* sides = &need(tensor.shape, "the shape of a tensor");
    view.shape.assign(sides, sides + tensor.rank);
  }
  view.data = static_cast<const std::byte*>(tensor.data);
  if (view.data == nullptr && byte_count(view.dtype, view.shape) > 0) {
    fail(ErrorCode::kInvalidArgument, "the data of the tensor ", name, " is NULL");
  }
  return view;
}

void hand_out(AutoencoderKL vae, calotype_model** model) {
  *model = std::make_unique<calotype_model>(std::move(vae)).release();
}

int64_t z_factor(const AutoencoderKLConfig& config) {
  return config.spatial_factor() / (config.is_flux2() ? config.patch_size.front() : 1);
}

calotype_info info_of(const AutoencoderKL& vae) {
  const AutoencoderKLConfig& config = vae.config();
  calotype_info info = calotype_info_defaults();
  info.has_encoder = vae.has_encoder();
  info.has_decoder = vae.has_decoder();
  info.config_inferred = vae.model().config_inferred;
  info.channels = config.channels();
  info.factor = config.spatial_factor();
  info.z_channels = config.latent_channels;
  info.z_factor = z_factor(config);
  info.image_channels = config.out_channels;
  info.encoder_parameters = vae.encoder_parameters();
  info.decoder_parameters = vae.decoder_parameters();
  info.scaling_factor = config.scaling_factor;
  info.shift_factor = config.shift_factor.value_or(0);
  return info;
}

// The array and, behind it, its strings, in one piece of memory that free() takes.
calotype_model_entry* pack(const std::vector<ModelEntry>& found) {
  size_t bytes = sizeof(calotype_model_entry) * std::max<size_t>(found.size(), 1);
  const auto strings = [](const ModelEntry& e) {
    return std::vector<const std::string*>{&e.name, &e.container, &e.path, &e.family, &e.problem};
  };
  for (const ModelEntry& entry : found) {
    for (const std::string* text : strings(entry)) bytes += text->size() + 1;
  }
  auto* entries = static_cast<calotype_model_entry*>(std::calloc(1, bytes));
  if (entries == nullptr) throw std::bad_alloc();
  char* text_end = reinterpret_cast<char*>(entries + found.size());
  for (size_t i = 0; i < found.size(); i++) {
    std::vector<const char*> copies;
    for (const std::string* text : strings(found[i])) {
      copies.push_back(text_end);
      std::memcpy(text_end, text->c_str(), text->size() + 1);
      text_end += text->size() + 1;
    }
    entries[i] = {copies[0], copies[1], copies[2], copies[3], copies[4], found[i].bytes};
  }
  return entries;
}

}  // namespace
}  // namespace calotype::capi

using namespace calotype;        // NOLINT: the functions below cannot be in a namespace
using namespace calotype::capi;  // NOLINT

uint32_t calotype_abi_version(void) { return CALOTYPE_ABI_VERSION; }

const char* calotype_version(void) { return CALOTYPE_VERSION; }

const char* calotype_last_error(void) { return last_error(); }

const char* calotype_status_name(calotype_status status) {
  switch (status) {
    case CALOTYPE_OK:
      return "ok";
    case CALOTYPE_INVALID_ARGUMENT:
      return "invalid argument";
    case CALOTYPE_NOT_FOUND:
      return "not found";
    case CALOTYPE_INVALID_DATA:
      return "invalid data";
    case CALOTYPE_UNSUPPORTED:
      return "unsupported";
    case CALOTYPE_IO:
      return "input or output error";
    case CALOTYPE_OUT_OF_MEMORY:
      return "out of memory";
    case CALOTYPE_CANCELLED:
      return "cancelled";
    case CALOTYPE_INTERNAL:
      return "internal error";
  }
  return "unknown status";
}

calotype_status calotype_load(const char* name, const calotype_load_options* options,
                              calotype_model** model) {
  return guarded([&] {
    need(model, "the place for the model") = nullptr;
    hand_out(AutoencoderKL::load(name == nullptr ? "" : name, load_options(options)), model);
  });
}

calotype_status calotype_load_tensors(const char* config_json, const calotype_tensor* tensors,
                                      size_t count, const calotype_load_options* options,
                                      calotype_model** model) {
  return guarded([&] {
    need(model, "the place for the model") = nullptr;
    need(tensors, "the array of tensors");
    std::map<std::string, TensorView> views;
    for (size_t i = 0; i < count; i++) {
      const std::string name = &need(tensors[i].name, "the name of a tensor");
      if (!views.emplace(name, view_of(tensors[i], name)).second) {
        fail(ErrorCode::kInvalidArgument, "the tensor ", name, " is given twice");
      }
    }
    std::optional<std::string> config;
    if (config_json != nullptr) config = config_json;
    hand_out(AutoencoderKL(
                 model_from_tensors(std::move(views), config, {}, "memory", load_options(options))),
             model);
  });
}

void calotype_free(calotype_model* model) { std::unique_ptr<calotype_model>{model}; }

calotype_status calotype_get_info(const calotype_model* model, calotype_info* info) {
  return guarded([&] { write_struct(info_of(need_model(model)), info, "calotype_info"); });
}

const char* calotype_config_json(const calotype_model* model) {
  return model == nullptr ? nullptr : model->config_json.c_str();
}

const char* calotype_model_source(const calotype_model* model) {
  return model == nullptr ? nullptr : model->vae.model().source.c_str();
}

const char* calotype_model_family(const calotype_model* model) {
  return model == nullptr ? nullptr : model->vae.model().family.c_str();
}

calotype_status calotype_list_models(calotype_model_entry** entries, size_t* count) {
  return guarded([&] {
    need(entries, "the place for the entries") = nullptr;
    need(count, "the place for the count") = 0;
    const std::vector<ModelEntry> found = list_models();
    *entries = pack(found);
    *count = found.size();
  });
}

void calotype_free_list(calotype_model_entry* entries) { std::free(entries); }
