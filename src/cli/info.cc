// calotype info: what a model is, and what a job would take.
#include <algorithm>
#include <map>
#include <memory>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/report.h"

namespace calotype::cli {
namespace {

struct InfoArgs {
  ModelArgs model;
  RunArgs run;
  ReportArgs report;
  std::optional<Size> size;
};

// Bytes of weights by dtype.
std::map<std::string, int64_t> weights_by_dtype(const Model& model) {
  std::map<std::string, int64_t> bytes;
  for (const auto& [name, tensor] : model.tensors) {
    bytes[std::string(dtype_name(tensor.dtype))] += byte_count(tensor.dtype, tensor.shape);
  }
  return bytes;
}

std::string dtype_text(const std::map<std::string, int64_t>& bytes) {
  std::vector<std::string> names;
  names.reserve(bytes.size());
  for (const auto& [name, count] : bytes) names.push_back(name);
  return join(names, ", ");
}

int64_t round_up(int64_t value, int64_t factor) { return (value + factor - 1) / factor * factor; }

// A family's network without its weights: every tensor is the same zeros. Good for plans alone.
AutoencoderKL weightless_model(const std::string& family) {
  Model model;
  model.config = family_config(family);
  model.family = family;
  model.source = "the config of the family, without weights";
  model.container = "none";
  model.keys = "diffusers";
  model.mapped = true;  // as those of a file would be
  const auto tensors = network_tensors(model.config);
  int64_t most = 0;
  for (const auto& [name, shape] : tensors) most = std::max(most, byte_count(DType::kBF16, shape));
  const auto zeros = std::make_shared<const std::vector<std::byte>>(static_cast<size_t>(most));
  for (const auto& [name, shape] : tensors)
    model.tensors[name] = {DType::kBF16, shape, zeros->data()};
  model.storage.push_back(zeros);
  return AutoencoderKL(std::move(model));
}

struct Plans {
  std::optional<Plan> decode, encode;
};

Plans plans_for(const AutoencoderKL& model, const Size& size, const RunOptions& options) {
  const int64_t factor = model.config().spatial_factor();
  const int64_t height = round_up(size.height, factor), width = round_up(size.width, factor);
  Plans plans;
  if (model.has_decoder()) plans.decode = model.plan_decode(1, height, width, options);
  if (model.has_encoder()) plans.encode = model.plan_encode(1, height, width, options);
  return plans;
}

Json plan_json(const std::optional<Plan>& plan) {
  if (!plan) return {};
  return {{"flop", plan->flop},
          {"flop_executed", plan->flop_executed},
          {"flop_again", plan->flop_again},
          {"planned_peak_bytes", plan->planned_peak_bytes},
          {"minimum_bytes", plan->minimum_bytes},
          {"memory_bytes", plan->memory_bytes},
          {"host_bytes", plan->host_bytes},
          {"spilled_bytes", plan->spilled_bytes},
          {"expected_s", plan->seconds > 0 ? Json(plan->seconds) : Json()}};
}

// Numbers where a size is given; else "B", "H/8", "W/8".
Json latent_shape(const AutoencoderKLConfig& config, const std::optional<Size>& size) {
  const int64_t factor = config.spatial_factor();
  if (!size) {
    const std::string f = std::to_string(factor);
    return Json::array({"B", config.channels(), "H/" + f, "W/" + f});
  }
  return Json::array({1, config.channels(), round_up(size->height, factor) / factor,
                      round_up(size->width, factor) / factor});
}

// Null where there are no weights to hash: FLUX.2's statistics are part of its space.
Json latent_space(const AutoencoderKL& model, const InfoArgs& args) {
  return args.model.only_family() ? Json() : text_or_null(latent_space_of(model));
}

std::string shape_text(const Json& shape) {
  std::vector<std::string> parts;
  for (const Json& part : shape) {
    parts.push_back(part.is_string() ? part.get<std::string>() : part.dump());
  }
  return "[" + join(parts, ", ") + "]";
}

Json document(const AutoencoderKL& model, const InfoArgs& args, const Plans& plans,
              const Machine& machine) {
  const Model& found = model.model();
  const auto bytes = weights_by_dtype(found);
  int64_t all_bytes = 0;
  for (const auto& [name, count] : bytes) all_bytes += count;
  Json size;
  if (args.size) size = {args.size->width, args.size->height};
  Json info = {{"model", args.model.only_family() ? args.model.family : args.model.name()},
               {"source", found.source},
               {"container", found.container},
               {"keys", found.keys},
               {"family", found.family},
               {"config", Json::parse(found.config.to_json())},
               {"config_inferred", found.config_inferred},
               {"family_given", !args.model.family.empty()},
               {"parameters", model.encoder_parameters() + model.decoder_parameters()},
               {"encoder_parameters", model.encoder_parameters()},
               {"decoder_parameters", model.decoder_parameters()},
               {"has_encoder", model.has_encoder()},
               {"has_decoder", model.has_decoder()},
               {"dtype", dtype_text(bytes)},
               {"weight_bytes", all_bytes},
               {"spatial_factor", found.config.spatial_factor()},
               {"latent_channels", found.config.channels()},
               {"latent_space", latent_space(model, args)},
               {"latent_shape", latent_shape(found.config, args.size)},
               {"size", size},
               {"backend", machine.backend},
               {"precision", machine.precision},
               {"machine", machine.name},
               {"backend_reason", machine.reason.empty() ? Json() : Json(machine.reason)}};
  // The plan of decoding, or of what else the model can do, stands at the top as well.
  const Json headline = plan_json(plans.decode ? plans.decode : plans.encode);
  for (const char* key : {"flop", "planned_peak_bytes", "minimum_bytes", "spilled_bytes"}) {
    info[key] = headline.is_null() ? Json() : headline[key];
  }
  info["decode"] = plan_json(plans.decode);
  info["encode"] = plan_json(plans.encode);
  return info;
}

void print_row(const Report& report, const std::string& label, const std::string& value) {
  report.line(printf_string("%-14s", label.c_str()) + value);
}

void print_plan(const Report& report, const std::string& job, const Size& size,
                const std::optional<Plan>& plan) {
  if (!plan) return;
  const auto again = [](double flop) {
    return flop > 0 ? ", " + format_flop(flop) + " computed again" : std::string();
  };
  const auto beside = [](int64_t bytes) {
    return bytes > 0 ? ", " + format_bytes(bytes) + " of host memory" : std::string();
  };
  const auto spilled = [](int64_t bytes) {
    return bytes > 0 ? ", " + format_bytes(bytes) + " spilled" : std::string();
  };
  print_row(report, job,
            format_size(size.width, size.height) + ": " + format_flop(plan->flop) +
                (plan->seconds > 0 ? ", about " + format_seconds(plan->seconds) : ""));
  print_row(report, "",
            "peak memory " + format_bytes(plan->planned_peak_bytes) + " planned" +
                again(plan->flop_again) + beside(plan->host_bytes) + spilled(plan->spilled_bytes));
  print_row(report, "",
            "budget " + format_bytes(plan->memory_bytes) + ", smallest that works " +
                std::to_string(plan->minimum_bytes) + " (" + format_bytes(plan->minimum_bytes) +
                ")");
}

void print(const Report& report, const Json& info, const InfoArgs& args, const Plans& plans) {
  const auto text = [&](const char* key) { return info[key].get<std::string>(); };
  const auto count = [&](const char* key) { return format_count(info[key].get<int64_t>()); };
  print_row(report, "model", text("model"));
  print_row(report, "source", text("source"));
  print_row(report, "container", text("container") + ", " + text("keys") + " keys");
  const bool inferred = info["config_inferred"].get<bool>();
  const char* reason = info["family_given"].get<bool>() ? " (as --family says)"
                       : inferred                       ? " (inferred; --family says otherwise)"
                                                        : "";
  print_row(report, "family", text("family") + reason);
  print_row(report, "parameters",
            count("parameters") + " (encoder " + count("encoder_parameters") + ", decoder " +
                count("decoder_parameters") + ")");
  print_row(report, "dtype",
            text("dtype") + ", " + format_bytes(info["weight_bytes"].get<int64_t>()));
  print_row(report, "latents", shape_text(info["latent_shape"]));
  if (!info["latent_space"].is_null()) {
    print_row(report, "latent space", text("latent_space").substr(0, 16));
  } else if (!args.model.only_family()) {
    print_row(report, "latent space", "unknown: bn.* are missing, so that only raw z can be used");
  }
  print_row(report, "machine", text("machine"));
  if (!info["backend_reason"].is_null()) print_row(report, "", text("backend_reason"));
  if (args.size) {
    print_plan(report, "decode", *args.size, plans.decode);
    print_plan(report, "encode", *args.size, plans.encode);
  }
  report.line(inferred ? "config (inferred from the tensors)" : "config");
  for (const auto& [key, value] : info["config"].items()) {
    if (!value.is_null()) report.line("  " + key + ": " + value.dump());
  }
}

int run(const InfoArgs& args) {
  const Report report(args.report.quiet, args.report.json);
  RunOptions options = args.run.options();
  const AutoencoderKL model =
      args.model.only_family() ? weightless_model(args.model.family) : args.model.load();
  const Machine machine = machine_of(model, args.run);
  if (!machine.reason.empty()) options.notice = nullptr;  // said in the report
  const Plans plans = args.size ? plans_for(model, *args.size, options) : Plans();
  const Json info = document(model, args, plans, machine);
  print(report, info, args, plans);
  report.json(info);
  return 0;
}

}  // namespace

void add_info(CLI::App& program, Action& action) {
  const auto args = std::make_shared<InfoArgs>();
  CommandLine line(program, "info", "Print a model's config, size, and what a job would take",
                   "calotype info [--model M | --family F] [--size WxH] [OPTIONS]", R"(
  calotype info
  calotype info --model z-image --size 2560x1440
  calotype info --family flux --size 2048x2048 --memory 1G
  calotype info --model ae.safetensors --family flux --json

With --family and no --model: a family's config, without weights. The plan is of
one picture: FLOP of the direct algorithm, time to expect, peak memory, what is
computed again or spilled to disk to stay within --memory, and the smallest --memory
that works.)");
  line.size("--size", args->size, "Also print the plan for a picture: FLOP, memory, time");
  args->report.add(line, "Print errors only");
  args->model.add(line);
  args->run.add(line);
  line.run(action, [args] { return run(*args); });
}

}  // namespace calotype::cli
