// calotype list: the models that --model would find by name.
#include <algorithm>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/report.h"

namespace calotype::cli {
namespace {

void print_table(const std::vector<ModelEntry>& entries) {
  const Report report(false, false);
  size_t width = 5;
  for (const ModelEntry& entry : entries) width = std::max(width, entry.name.size());
  const auto row = [&](const std::string& name, const std::string& container,
                       const std::string& family, const std::string& size,
                       const std::string& path) {
    const std::string padded = name + std::string(width - name.size(), ' ');
    report.line(
        padded +
        printf_string("  %-9s  %-7s %9s  ", container.c_str(), family.c_str(), size.c_str()) +
        path);
  };
  row("MODEL", "FOUND IN", "FAMILY", "SIZE", "PATH");
  for (const ModelEntry& entry : entries) {
    const bool good = entry.problem.empty();
    row(entry.name, entry.container, good ? entry.family : "-",
        entry.bytes > 0 ? format_bytes(entry.bytes) : "-",
        good ? entry.path : "unusable: " + entry.problem);
  }
}

int run(const ReportArgs& args) {
  std::vector<ModelEntry> entries = list_models();
  for (ModelEntry& entry : entries) {
    if (entry.name.empty()) entry.name = kEmbedded;
  }
  if (args.json) {
    Json models = Json::array();
    for (const ModelEntry& entry : entries) {
      models.push_back({{"name", entry.name},
                        {"container", entry.container},
                        {"path", entry.path},
                        {"family", text_or_null(entry.family)},
                        {"bytes", entry.bytes},
                        {"problem", text_or_null(entry.problem)}});
    }
    Report(false, true).json({{"models", models}});
  } else if (args.quiet) {
    for (const ModelEntry& entry : entries) {
      if (entry.problem.empty()) Report(false, false).line(entry.name);
    }
  } else {
    print_table(entries);
  }
  return 0;
}

}  // namespace

void add_list(CLI::App& program, Action& action) {
  const auto args = std::make_shared<ReportArgs>();
  CommandLine line(program, "list", "List the models found on this machine",
                   "calotype list [OPTIONS]", R"(
  calotype list
  calotype list --json
  calotype list --quiet | xargs -n 1 calotype info --model

Looks at the embedded model, the Ollama store ($OLLAMA_MODELS, else
~/.ollama/models) and the Hugging Face cache ($HF_HUB_CACHE, $HF_HOME/hub, else
~/.cache/huggingface/hub).)");
  args->add(line, "Print names only, and only of models that can be used");
  line.run(action, [args] { return run(*args); });
}

}  // namespace calotype::cli
